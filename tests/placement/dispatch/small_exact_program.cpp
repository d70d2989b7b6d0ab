#include "tests/placement/dispatch/small_exact_program.hpp"

#include <interfaces/highs_c_api.h>

#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace coterie {
namespace {

constexpr double kNone = 1e30;

struct DestroyHighs {
  void operator()(void* highs) const { Highs_destroy(highs); }
};

/// Rows of a matrix, and the columns that they are of, as they come.
class Program {
 public:
  int column(bool whole) {
    kinds_.push_back(whole ? kHighsVarTypeInteger : kHighsVarTypeContinuous);
    return static_cast<int>(kinds_.size()) - 1;
  }
  int row(double low, double high) {
    low_.push_back(low);
    high_.push_back(high);
    rows_.emplace_back();
    return static_cast<int>(rows_.size()) - 1;
  }
  void add(int row, int column, double value) { rows_[row].emplace_back(column, value); }

  /// All columns lie in [0, 1].
  [[nodiscard]] bool feasible() const {
    std::vector<HighsInt> starts{0}, columns;
    std::vector<double> values;
    for (const auto& row : rows_) {
      for (const auto& [column, value] : row) {
        columns.push_back(column);
        values.push_back(value);
      }
      starts.push_back(static_cast<HighsInt>(columns.size()));
    }
    const std::vector<double> zeros(kinds_.size(), 0), ones(kinds_.size(), 1);
    const std::unique_ptr<void, DestroyHighs> highs(Highs_create());
    Highs_setBoolOptionValue(highs.get(), "output_flag", 0);
    Highs_setIntOptionValue(highs.get(), "threads", 1);
    Highs_passMip(highs.get(), static_cast<HighsInt>(kinds_.size()), static_cast<HighsInt>(rows_.size()),
                  static_cast<HighsInt>(columns.size()), kHighsMatrixFormatRowwise, kHighsObjSenseMinimize, 0,
                  zeros.data(), zeros.data(), ones.data(), low_.data(), high_.data(), starts.data(), columns.data(),
                  values.data(), kinds_.data());
    if (Highs_run(highs.get()) == kHighsStatusError) throw std::runtime_error("HiGHS failed");
    return Highs_getModelStatus(highs.get()) != kHighsModelStatusInfeasible;
  }

 private:
  std::vector<HighsInt> kinds_;
  std::vector<double> low_, high_;
  std::vector<std::vector<std::pair<int, double>>> rows_;
};

}  // namespace

/// Columns: the share of each source's rows of an expert that a rank computes, whether the rank computes any, and
/// whether a rank sends it the weights.
bool can_reach(const DispatchLayer& layer, const DispatchCosts& costs, std::span<const std::int32_t> counts,
               std::span<const std::uint8_t> cached, double limit) {
  const int ranks = layer.ranks;
  Program program;
  std::vector<int> time(ranks), given(ranks);
  for (int& row : time) row = program.row(-kNone, 1);  // parts of the limit
  const auto near = [&](int a, int b) { return layer.node_of_rank[a] == layer.node_of_rank[b]; };
  const auto part = [&](std::int64_t price, double times) { return static_cast<double>(price) * times / limit; };
  for (int e = 0; e < layer.experts; ++e) {
    const auto rows = [&](int r) { return counts[static_cast<std::size_t>(r) * layer.experts + e]; };
    for (int s = 0; s < ranks; ++s) given[s] = rows(s) > 0 ? program.row(1, 1) : -1;
    for (int r = 0; r < ranks; ++r) {
      const std::size_t at = static_cast<std::size_t>(e) * ranks + r;
      const int computes = program.column(true);
      program.add(time[r], computes, part(costs.expert, 1));
      for (int s = 0; s < ranks; ++s) {
        if (given[s] < 0) continue;
        const int share = program.column(false), only_then = program.row(-kNone, 0);
        const std::int64_t way = s == r ? 0 : near(s, r) ? costs.row_inside : costs.row_between;
        program.add(time[r], share, part(costs.row + way, rows(s)));
        program.add(given[s], share, 1);
        program.add(only_then, share, 1);
        program.add(only_then, computes, -1);
      }
      if (layer.held[at] != 0 || (!cached.empty() && cached[at] != 0)) continue;
      const int needs = program.row(0, kNone);
      program.add(needs, computes, -1);
      for (int from = 0; from < ranks; ++from) {
        if (layer.held[static_cast<std::size_t>(e) * ranks + from] == 0) continue;
        const int sends = program.column(true);
        program.add(needs, sends, 1);
        const double way = part(near(from, r) ? costs.weights_inside : costs.weights_between, 1);
        program.add(time[r], sends, way);
        program.add(time[from], sends, way);
      }
    }
  }
  return program.feasible();
}

}  // namespace coterie
