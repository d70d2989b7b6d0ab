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
  WorkMetrics& metrics;
};

/// K and V of the rows of a step that the other ranks of the domain don't have yet, (rows, kv width) each, and where
/// they belong.
struct Freight {
  Tensor k;
  Tensor v;
  KvCache cache;
};

/// Partial sums, and of which rows.
struct PartialSums {
  std::vector<std::int32_t> rows;
  Tensor sums;
};

/// Rows of a step on their way through one layer.
struct InFlight {
  Resident at;  ///< before the layer
  Freight freight;
  RowPlan plan;
  Inbox arrived;
  Outbox sums;       ///< partial sums for the other ranks
  PartialSums here;  ///< those for the rows that go on here
};

/// The layer in three parts, with the exchanges between them the caller's: what one set of rows sends may share a
/// message with what another set sends (micro-batches). Each row adds the partial sums of the ranks in the order of the
/// ranks, so that a result doesn't depend on where the row is.
class MoeLayer {
 public:
  MoeLayer(int index, const MoeSpec& spec, float rms_epsilon, const LayerWeights& weights, RankContext& context)
      : index_(index), spec_(spec), rms_epsilon_(rms_epsilon), weights_(weights), context_(context) {}

  /// Routes the rows of `flight.at` and plans their way; returns the messages that dispatch them, with their freight.
  [[nodiscard]] Outbox depart(const Batch& batch, InFlight& flight, Scratch& scratch,
                              const RoutingObserver& observe) const;
  /// Takes in what was dispatched to this rank: stores the freight, computes the experts.
  void arrive(const Batch& batch, Inbox arrived, InFlight& flight, Scratch& scratch) const;
  /// Whether any rank has partial sums for another.
  [[nodiscard]] static bool partial_sums_follow(const InFlight& flight);
  /// The rows that go on here, with the partial sums that `sums` brought (none when empty) added; their x is in memory
  /// of `next` unless nothing moved.
  [[nodiscard]] Resident land(InFlight& flight, Inbox& sums, Scratch& scratch, Scratch& next) const;

 private:
  [[nodiscard]] Outbox pack(const Batch& batch, const InFlight& flight) const;
  void store(const Batch& batch, Inbox& arrived, const Freight& freight) const;
  void compute(InFlight& flight, Scratch& scratch) const;
  /// The rows that go on here: those that stay and those that came.
  [[nodiscard]] Resident gather(InFlight& flight, Scratch& scratch, Scratch& next) const;
  void add(const PartialSums& partial, const Resident& to) const;

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
