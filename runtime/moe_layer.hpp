// One MoE layer under plain expert parallelism: rows go to their experts, partial sums come home. Two exchanges.
#pragma once

#include "comm/communicator.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/metrics.hpp"
#include "runtime/ownership.hpp"
#include "runtime/scratch.hpp"
#include "runtime/weights.hpp"

#include <functional>

namespace coterie {

/// Told of every routing decision: the MoE layer and the choices of all rows of the step.
using RoutingObserver = std::function<void(int layer, const Routing& routing)>;

/// What the layers of a rank work with; all of it outlives them.
struct RankContext {
  Device& device;
  Communicator& comm;
  const Ownership& ownership;
  Scratch& scratch;  ///< reset by every layer
  WorkMetrics& metrics;
};

class MoeLayer {
 public:
  MoeLayer(int index, const MoeSpec& spec, float rms_epsilon, const LayerWeights& weights, RankContext& context)
      : index_(index), spec_(spec), rms_epsilon_(rms_epsilon), weights_(weights), context_(context) {}

  /// x (rows, hidden) += the layer's output. Collective, also for ranks without rows; exactly two exchanges.
  /// Each row adds the partial sums of the ranks in the order of the ranks, so that a result doesn't depend on where
  /// the row is at home.
  void forward(const Tensor& x, std::int64_t step, const RoutingObserver& observe);

 private:
  /// The message to each rank: its rows of x, and their routes.
  [[nodiscard]] Outbox pack(const Tensor& x, const std::vector<RowsFor>& rows) const;
  /// The message to each rank: one partial sum for every row that came from there.
  [[nodiscard]] Outbox compute(const Inbox& arrived);
  [[nodiscard]] std::vector<Route> routes_of(const Inbox& arrived) const;
  [[nodiscard]] std::vector<ExpertRows> calls(const GroupedRows& groups) const;
  void add(const Inbox& sums, const std::vector<RowsFor>& rows, const Tensor& x) const;

  /// A section seen as rows of activations.
  [[nodiscard]] Tensor as_rows(std::span<const std::byte> section) const;

  int index_;
  const MoeSpec& spec_;
  float rms_epsilon_;
  const LayerWeights& weights_;
  RankContext& context_;
};

}  // namespace coterie
