// What proves a bound to someone who does not trust the solver: dual values, and the file that holds them.
#pragma once

#include "placement/bound/dual_values.hpp"
#include "placement/bound/row_facets.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

/// Under which facet a token's rows at a layer are counted.
struct RowChoice {
  std::uint16_t members = 0;  ///< bit c: the c-th of the token's experts at the layer, null ones left out, is counted
  std::uint16_t facet = 0;    ///< of RowFacets::of(number of members)
};

/// Written by write_certificate as coterie.certificate/1 (safetensors); placement/bound/bounds.md has the layout.
struct DualCertificate {
  /// One relaxation: parts are ranks or nodes.
  struct Level {
    std::string name;  ///< "rank" or "node"
    int parts = 0;
    int capacity = 0;
    DualValues dual;
  };
  std::vector<Level> levels;
  /// Traffic only: the facets that tokens may be counted under, at the first layer and at the others, for 0, 1, ...
  /// experts; and the choice of each token, (traces)(tokens, layers).
  std::vector<std::vector<RowFacet>> first_facets, onward_facets;
  std::vector<std::vector<RowChoice>> choices;
};

}  // namespace coterie
