// Layers and loads at random, harder than what models ask for: where is dispatch planning slowest?
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

/// 256 experts on 64 ranks.
struct RandomSetting {
  std::string name;
  DispatchLayer layer;
  DispatchCosts costs;
  std::vector<std::uint8_t> cached;  ///< (experts, ranks), or empty
};

/// Nodes of one size or of several, experts in order or dealt at random, some or all of them held twice or more often,
/// caches, and the prices of one of several machines or of none.
[[nodiscard]] RandomSetting random_setting(std::uint64_t seed);

/// Fills (ranks, experts) rows: few or many hot experts, ranks, or sources, powers, one hot expert a rank, other
/// experts from every rank, few rows; of single counts more or less at random. Returns its kind.
const char* random_load(std::uint64_t seed, const DispatchLayer& layer, std::vector<std::int32_t>& counts);

}  // namespace coterie
