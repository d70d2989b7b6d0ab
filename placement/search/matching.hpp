// The assignment problem: every row gets a column of its own, for the largest sum.
#pragma once

#include <span>
#include <vector>

namespace coterie {

/// Solves assignment problems of one size again and again; keeps its working memory, so one object per thread.
/// Exact: dynamic programming over sets of columns up to 8 rows, the Hungarian method (Kuhn 1955, in its O(n^3) form
/// with potentials) beyond.
class Matching {
 public:
  explicit Matching(int size);

  /// The largest sum over rows of weight(row, column of the row). `weight` is row-major (size, size), finite.
  [[nodiscard]] double best(std::span<const double> weight);
  /// (size): the column of each row in a best matching.
  [[nodiscard]] std::vector<int> columns(std::span<const double> weight);

 private:
  double over_sets(std::span<const double> weight);
  double hungarian(std::span<const double> weight);

  int size_;
  std::vector<double> best_;    // (2^size): best sum of the first popcount(mask) rows in the columns of mask
  std::vector<int> column_of_;  // (size)
  std::vector<double> row_price_, column_price_, slack_;
  std::vector<int> row_of_, previous_;
  std::vector<char> reached_;
};

}  // namespace coterie
