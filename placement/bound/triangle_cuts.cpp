#include "placement/bound/triangle_cuts.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

namespace coterie {

std::vector<Triangle> broken_triangles(std::span<const double> shared, int size, double tolerance, std::size_t most) {
  struct Broken {
    double by;
    Triangle triangle;
  };
  std::vector<Broken> found;
  std::vector<std::pair<double, int>> row;
  for (int i = 0; i < size; ++i) {
    row.clear();
    for (int j = 0; j < size; ++j) {
      const double s = shared[static_cast<std::size_t>(i) * size + j];
      if (j != i && s > tolerance) row.emplace_back(s, j);
    }
    std::sort(row.begin(), row.end(), std::greater<>());
    for (std::size_t x = 0; x < row.size(); ++x) {
      for (std::size_t y = x + 1; y < row.size() && row[x].first + row[y].first > 1 + tolerance; ++y) {
        const auto [j, q] = std::minmax(row[x].second, row[y].second);
        const double by = row[x].first + row[y].first - shared[static_cast<std::size_t>(j) * size + q] - 1;
        if (by > tolerance)
          found.push_back(
              {by, {static_cast<std::uint16_t>(i), static_cast<std::uint16_t>(j), static_cast<std::uint16_t>(q)}});
      }
    }
  }
  if (found.size() > most) {
    const auto worse = [](const Broken& a, const Broken& b) {
      const auto key = [](const Triangle& t) { return std::tuple(t.i, t.j, t.q); };
      return a.by != b.by ? a.by > b.by : key(a.triangle) < key(b.triangle);
    };
    std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(most), found.end(), worse);
    found.resize(most);
  }
  std::vector<Triangle> triangles;
  triangles.reserve(found.size());
  for (const Broken& b : found) triangles.push_back(b.triangle);
  return triangles;
}

}  // namespace coterie
