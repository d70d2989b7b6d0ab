// Finds triangle inequalities that a relaxed solution breaks: if i shares a part with j and with q, j shares it with q.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// S(i, j) + S(i, q) - S(j, q) <= 1, with j < q.
struct Triangle {
  std::uint16_t i = 0, j = 0, q = 0;
  friend bool operator==(const Triangle&, const Triangle&) = default;
};

/// Up to `most` triangles that `shared` (size, size), symmetric, breaks by more than `tolerance`: those that it breaks
/// most.
[[nodiscard]] std::vector<Triangle> broken_triangles(std::span<const double> shared, int size, double tolerance,
                                                     std::size_t most);

}  // namespace coterie
