// One MoE layer on ranks: rows go to their experts, and go on where the landing rule says.
#pragma once

#include "comm/communicator.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/labelled_rows.hpp"
#include "runtime/metrics.hpp"
#include "runtime/scratch.hpp"
#include "runtime/weights.hpp"

#include <functional>

namespace coterie {

/// Told of every routing decision: the MoE layer, the rows of the batch, and their choices.
using RoutingObserver =
    std::function<void(const Batch& batch, std::span<const std::int32_t> rows, int layer, const Routing& routing)>;

/// What the layers of a rank work with; all of it outlives them.
struct RankContext {
  Device& device;
  Communicator& comm;
  const Ownership& ownership;
  const Domains& domains;
  Scratch& scratch;  ///< reset by every layer
  WorkMetrics& metrics;
};

/// K and V of the rows of a step that the other ranks of the domain don't have yet, (rows, kv width) each, and where
/// they belong.
struct Freight {
  Tensor k;
  Tensor v;
  KvCache cache;
};

class MoeLayer {
 public:
  MoeLayer(int index, const MoeSpec& spec, float rms_epsilon, const LayerWeights& weights, RankContext& context)
      : index_(index), spec_(spec), rms_epsilon_(rms_epsilon), weights_(weights), context_(context) {}

  /// Takes the rows of this rank through the layer, x += output; returns the rows that go on here, their x in memory of
  /// `next` unless nothing moved. Collective, also for ranks without rows.
  ///
  /// Two exchanges, of which a step leaves out those that it doesn't need: the second where tokens may stay and none
  /// has partial sums to send; the first where every row is replicated on all ranks. Each row adds the partial sums of
  /// the ranks in the order of the ranks, so that a result doesn't depend on where the row is.
  [[nodiscard]] Resident forward(const Batch& batch, Resident at, const Freight& freight, std::int64_t step,
                                 Scratch& next, const RoutingObserver& observe);

 private:
  /// Partial sums, and of which rows.
  struct Partial {
    std::vector<std::int32_t> rows;
    Tensor sums;
  };
  struct Computed {
    Outbox outbox;  ///< for the other ranks
    Partial here;   ///< for the rows that go on here
  };

  [[nodiscard]] Outbox pack(const Batch& batch, const Resident& at, const RowPlan& plan, const Freight& freight) const;
  void store(const Batch& batch, Inbox& arrived, const Freight& freight) const;
  [[nodiscard]] Computed compute(Inbox& arrived);
  /// The rows that go on here: those that stay and those that came.
  [[nodiscard]] Resident gather(const Resident& at, const RowPlan& plan, Inbox& arrived, Scratch& next) const;
  void add(const Partial& partial, const Resident& to) const;

  [[nodiscard]] std::vector<RowTag> tags_of(const Message& message) const;
  [[nodiscard]] std::vector<Route> routes_of(const Inbox& arrived) const;
  [[nodiscard]] std::vector<ExpertRows> calls(const GroupedRows& groups) const;
  /// A section seen as rows of activations.
  [[nodiscard]] Tensor as_rows(std::span<std::byte> section) const;

  int index_;
  const MoeSpec& spec_;
  float rms_epsilon_;
  const LayerWeights& weights_;
  RankContext& context_;
};

}  // namespace coterie
