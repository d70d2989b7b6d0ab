// One MoE layer on ranks: rows go to their experts, and go on where the landing rule says.
#pragma once

#include "comm/communicator.hpp"
#include "runtime/experts/dispatch.hpp"
#include "runtime/experts/expert_calls.hpp"
#include "runtime/experts/partial_sums.hpp"
#include "runtime/experts/spill.hpp"
#include "runtime/experts/work_metrics.hpp"
#include "runtime/layers/freight.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/weights.hpp"

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
  Spill* spill = nullptr;  ///< none: rows are computed where the placement says
};

/// Rows of a step on their way through one layer.
struct InFlight {
  Resident at;  ///< before the layer
  Freight freight;
  int micro_batch = 0;
  std::int64_t step = -1;
  std::int64_t tokens = 0;  ///< of the micro-batch, in this rank's domain
  RowPlan plan;
  SpillCall spill;
  Exchange exchange;   ///< that dispatches the rows
  Resident landed;     ///< the rows that go on here, the experts' output not yet added
  Outbox sums;         ///< partial sums for the other ranks
  PartialSums here;    ///< those for the rows that go on here
  PartialSums shared;  ///< what the shared expert adds to rows that go on here, computed on this rank
};

/// The layer in three parts, with the exchanges between them the caller's: what one set of rows sends may share a
/// message with what another set sends (micro-batches). Each row adds the partial sums of the ranks that the placement
/// says in the order of the ranks, and what the shared expert adds last, so that a result depends neither on where the
/// row is nor on what is spilled. The shared expert runs where the row goes on; of a row that is on all ranks of its
/// domain, at home, which tells the others.
class MoeLayer {
 public:
  /// `index` counts the MoE layers. All references outlive this object.
  MoeLayer(int index, const MoeSpec& spec, float residual_scale, const LayerWeights& weights, RankContext& context)
      : index_(index), spec_(spec), residual_scale_(residual_scale), weights_(weights), context_(context) {}

  [[nodiscard]] int index() const noexcept { return index_; }
  /// Whether every rank's messages tell every other how many tokens it has.
  [[nodiscard]] bool tells_tokens() const;

  /// Routes the rows of `flight.at` and plans their way; returns the messages that dispatch them, with their freight
  /// and the weights that go along. Collective where counts are gathered, which all ranks decide alike.
  [[nodiscard]] Outbox depart(const Batch& batch, InFlight& flight, Scratch& scratch,
                              const RoutingObserver& observe) const;
  /// Computes what needs nothing from other ranks while `flight.exchange` is under way, until its rows are here.
  void meanwhile(const Batch& batch, InFlight& flight, Scratch& scratch) const;
  /// Takes in what was dispatched to this rank: stores the freight, computes the experts, those whose weights are still
  /// under way last. The rows that go on here are in memory of `next` unless nothing moved.
  void arrive(const Batch& batch, InFlight& flight, Scratch& scratch, Scratch& next) const;
  /// Whether any rank has partial sums for another.
  [[nodiscard]] static bool partial_sums_follow(InFlight& flight);
  /// The rows that go on here, with the partial sums that `sums` brought (none when empty) added.
  [[nodiscard]] Resident land(InFlight& flight, Inbox& sums, Scratch& scratch) const;

 private:
  [[nodiscard]] Outbox pack(const Batch& batch, const InFlight& flight) const;
  /// The shared expert's part for rows that go on here.
  void share(const Batch& batch, const Resident& here, InFlight& flight, Scratch& scratch) const;
  /// The experts of the rows that arrived, and the sums of their outputs.
  void compute(const Batch& batch, InFlight& flight, Scratch& scratch) const;
  /// (ranks): what each wants of the rows that arrived.
  [[nodiscard]] std::vector<WantedSums> wanted_of(const Inbox& arrived, std::span<const Route> routes,
                                                  const GroupedRows& groups) const;
  /// (pairs, hidden): the experts' outputs. Finishes the exchange.
  [[nodiscard]] Tensor through_experts(InFlight& flight, const GroupedRows& groups, Scratch& scratch) const;
  /// Fills `flight.here` and `flight.sums`; these also tell the domain what the shared expert adds to rows that are on
  /// all of its ranks.
  void sum_up(const Batch& batch, std::vector<WantedSums> wanted, const Tensor& outputs, InFlight& flight,
              Scratch& scratch) const;
  /// The rows that go on here: those that stay and those that came.
  [[nodiscard]] Resident gather(InFlight& flight, Scratch& scratch, Scratch& next) const;
  /// Gathers the counts and plans who computes what, where that may pay.
  void spill(const Batch& batch, const Routing& routing, InFlight& flight, ChoiceRanks& ranks) const;

  /// A section seen as rows of activations.
  [[nodiscard]] Tensor as_rows(const DeviceBytes& section) const;

  int index_;
  const MoeSpec& spec_;
  float residual_scale_;
  const LayerWeights& weights_;
  RankContext& context_;
};

}  // namespace coterie
