// The integer program of a placement by pairs: which rank each expert is on, and which pairs of consecutive experts
// share one. Names no solver.
#pragma once

#include "placement/problem.hpp"

#include <string>
#include <utility>
#include <vector>

namespace coterie {

/// Maximise cost * x, lower <= x <= upper, row_lower <= A x <= row_upper; the first `integers` columns are whole
/// numbers.
struct IntegerProgram {
  int integers = 0;
  std::vector<double> cost, lower, upper;    ///< (columns)
  std::vector<double> row_lower, row_upper;  ///< (rows)
  std::vector<int> row_start, column;        ///< (rows + 1), (entries): row by row
  std::vector<double> entry;                 ///< (entries)
  double constant = 0;                       ///< added to cost * x
  double unit = 1;                           ///< value of the objective for one unit of cost * x + constant

  [[nodiscard]] int columns() const noexcept { return static_cast<int>(cost.size()); }
  [[nodiscard]] int rows() const noexcept { return static_cast<int>(row_lower.size()); }
};

/// Columns x(layer, expert, rank) of the layers that are free, then z(layer, i, j, part): how far i of a layer and j of
/// the next share a rank, or a node. Each z belongs to sum_j z <= capacity x(i), sum_i z <= capacity x(j) and, over all
/// parts, sum z <= 1; without the last its linear relaxation says nothing. Pairs with a fixed layer need no z.
class PairProgram {
 public:
  explicit PairProgram(const Problem& problem);

  [[nodiscard]] const IntegerProgram& program() const noexcept { return program_; }
  /// The rank with the largest x of each expert.
  [[nodiscard]] Assignment assignment(const std::vector<double>& columns) const;
  /// (columns): what stands for an assignment that keeps the problem's limits. Ranks may get other names, as the
  /// program allows only some.
  [[nodiscard]] std::vector<double> columns(const Assignment& assignment) const;

 private:
  struct Pair {
    int layer, i, j;
    int first;   ///< column of z for part 0
    bool ranks;  ///< parts are ranks, else nodes
  };
  [[nodiscard]] int x(int layer, int expert, int rank) const;
  int add_column(double cost, double lower, double upper);
  void add_row(double lower, double upper, const std::vector<std::pair<int, double>>& entries);
  void add_assignment(int layer);
  void add_pairs(int layer, bool ranks, double gain);
  [[nodiscard]] Assignment renamed(const Assignment& assignment) const;
  [[nodiscard]] int parts(bool ranks) const;

  const Problem& problem_;
  std::vector<int> node_;     ///< (ranks)
  std::vector<int> first_x_;  ///< (layers): column of x(layer, 0, 0); -1: fixed
  bool first_names_ = false;  ///< expert e of layer 0 is on a rank up to e
  std::vector<Pair> pairs_;
  IntegerProgram program_;
};

/// Empty, or why the problem's objective is not one of pairs: for a user.
[[nodiscard]] std::string why_no_integer_program(const Problem& problem);

}  // namespace coterie
