// Which rank computes which rows of an MoE layer, and which experts' weights travel for it: least-loaded dispatch.
#pragma once

#include "placement/dispatch/dispatch_layer.hpp"
#include "placement/machine.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace coterie {

/// Prices in picoseconds, whole numbers so that all ranks come to the same plan. A rank's time is, of all experts that
/// it has rows of, `expert` and `row` for each row; of each row that comes from elsewhere its way; and of each expert's
/// weights that it gets or gives theirs.
struct DispatchCosts {
  std::int64_t row = 0;              ///< products of one row with one expert; at least 1
  std::int64_t expert = 0;           ///< of an expert with rows at a rank, on top: its weights are read, products begin
  std::int64_t row_inside = 0;       ///< a row from another rank of the node, and its result's way back
  std::int64_t row_between = 0;      ///< the same from another node
  std::int64_t weights_inside = 0;   ///< an expert's weights between two ranks of a node
  std::int64_t weights_between = 0;  ///< the same between nodes
};

/// From measured figures, for experts of three matrices (hidden x intermediate). `weight_bytes` are of one expert as it
/// travels, `row_bytes` of a row there and back.
[[nodiscard]] DispatchCosts dispatch_costs(const Machine& machine, std::int64_t hidden, std::int64_t intermediate,
                                           std::int64_t weight_bytes, std::int64_t row_bytes);

enum class DispatchPolicy {
  plain,  ///< rows go where the plan says
  llep,   ///< LLEP's Algorithms 2 to 4 (arXiv 2601.17111); the order of an expert's rows is by node, then by rank
  least_loaded,  ///< the smallest predicted time of the slowest rank: never more than llep's, nor as much with more
                 ///< transfers (where these are at most most_arrivals a rank)
};

struct DispatchOptions {
  DispatchPolicy policy = DispatchPolicy::least_loaded;
  int most_arrivals = 1 << 20;  ///< least_loaded: experts whose weights a rank may get in one step
  double llep_alpha = 1.0;      ///< capacity of a rank over the mean
  std::int64_t llep_min_rows = 1024;
  double llep_threshold = 1.3;  ///< heaviest rank over the mean, below which nothing is spilled
};

/// Rows [from, to) of an expert, counted through all ranks' rows: those of rank 0 first, then rank 1's, ...
struct DispatchPart {
  int expert = 0;
  int rank = 0;  ///< that computes them
  std::int64_t from = 0, to = 0;
  friend bool operator==(const DispatchPart&, const DispatchPart&) = default;
};

/// An expert's weights from a rank that holds them to one that computes rows with them.
struct DispatchTransfer {
  int expert = 0, from = 0, to = 0;
  friend bool operator==(const DispatchTransfer&, const DispatchTransfer&) = default;
};

struct DispatchPlan {
  /// Why nothing was spilled.
  enum class Stayed { spilled, policy, balanced, not_worth_it };

  Stayed stayed = Stayed::policy;
  std::vector<DispatchPart> parts;  ///< all rows, by expert and `from`; neighbours of one rank are one part
  std::vector<DispatchTransfer> transfers;
  std::int64_t before = 0;  ///< picoseconds that the slowest rank takes when rows go where the placement says
  std::int64_t after = 0;   ///< with this plan
};

/// Plans layer after layer. The same inputs give the same plan on every rank; in another order of the ranks inside the
/// nodes, one of the same times. Allocates at the first calls of a size only.
class DispatchPlanner {
 public:
  DispatchPlanner(const DispatchCosts& costs, const DispatchOptions& options);
  ~DispatchPlanner();
  DispatchPlanner(DispatchPlanner&&) noexcept;
  DispatchPlanner& operator=(DispatchPlanner&&) noexcept;

  /// `counts` is (ranks, experts): rows of each rank for each expert. `cached` is (experts, ranks), 1 where the rank
  /// has the weights of an expert that it doesn't hold, or empty. What is returned is valid until the next call.
  [[nodiscard]] const DispatchPlan& plan(const DispatchLayer& layer, std::span<const std::int32_t> counts,
                                         std::span<const std::uint8_t> cached = {});

 private:
  struct Scratch;
  DispatchCosts costs_;
  DispatchOptions options_;
  std::unique_ptr<Scratch> scratch_;
  DispatchPlan plan_;
};

/// False where no plan saves more than `beyond` picoseconds however `rows` rows of a layer (of all ranks together) are
/// spread, so that the counts needn't be gathered. `spare_weights`: some expert is cached or held more than once.
[[nodiscard]] bool spill_may_pay(const DispatchCosts& costs, std::int64_t rows, bool spare_weights,
                                 std::int64_t beyond = 0);

}  // namespace coterie
