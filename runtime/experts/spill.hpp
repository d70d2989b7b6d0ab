// Least-loaded dispatch on one rank: when it is worth to gather counts, what the ranks' common plan says, and the
// experts that this rank keeps of those that came to it.
#pragma once

#include "comm/communicator.hpp"
#include "kernels/device.hpp"
#include "placement/dispatch/plan_dispatch.hpp"
#include "placement/plan.hpp"
#include "runtime/experts/expert_parcel.hpp"
#include "runtime/experts/spill_counts.hpp"
#include "runtime/experts/spill_ledger.hpp"
#include "runtime/experts/spill_plan.hpp"
#include "runtime/layers/ownership.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

namespace coterie {

/// The same on all ranks.
struct SpillOptions {
  DispatchOptions dispatch = {};
  DispatchCosts costs = {};
  std::int64_t counts_gather = 0;  ///< picoseconds in which ranks tell one another their counts, and plan
  /// That is measured, too, as calls go on. When ranks plan then differs from run to run: only for layers whose results
  /// don't depend on it.
  bool measures_gather = false;
  std::int64_t cache_bytes = 0;   ///< of a rank, for experts that came to it
  std::int64_t expert_bytes = 0;  ///< of one of them; a Worker takes what its model's largest takes as it is sent for 0
  /// Plans in place of the policy, where there is one: a pure function of the layer, the counts and what is cached.
  std::function<DispatchPlan(const DispatchLayer&, std::span<const std::int32_t>, std::span<const std::uint8_t>)>
      planner = nullptr;
};

/// One call of a layer, as far as it has to do with rows that aren't computed where the placement says.
struct SpillCall {
  bool planned = false;  ///< the counts were gathered
  bool spilled = false;  ///< some rows are computed elsewhere, on whatever rank
  bool travels = false;  ///< some rank's weights travel
  WeightTransfers transfers;
  std::chrono::steady_clock::time_point departed;  ///< where planned
  /// Experts that this rank computes with and doesn't hold: those that it kept, and from `take` on those that came.
  std::map<int, std::shared_ptr<const ExpertWeights>> experts;
};

class Spill {
 public:
  /// `layers` are the MoE layers'. The device outlives this object.
  Spill(const SpillOptions& options, std::vector<DispatchLayer> layers, int rank, Device& device);

  /// Whether the counts of a layer with so many rows, one per (token, expert) on all ranks, are worth gathering: not
  /// where no spill can pay at all, and seldom where the last ones didn't; LLEP's policy doesn't ask what pays. Every
  /// rank asks before every call.
  [[nodiscard]] bool may_pay(int layer, std::int64_t rows);
  /// Every rank's `mine`, one after the other. Collective, before a plan. Throws CommError when ranks don't know the
  /// caches alike. Where any rank's weights changed, all drop what they keep.
  [[nodiscard]] std::vector<std::int32_t> gather(Communicator& comm, std::span<const std::int32_t> mine,
                                                 const Place& place);
  /// The plan for these counts (ranks, experts), the same on every rank; valid until the next call. `call` gets what
  /// concerns this rank. Every rank calls it for the same layers in the same order.
  const DispatchPlan& plan(int layer, std::span<const std::int32_t> counts, SpillCall& call);
  /// The experts that come to this rank for this call arrived, and are kept if the ledger says so. Otherwise `call`
  /// views their bytes.
  void take(int layer, Inbox& arrived, const std::function<Gating(int expert)>& gating, SpillCall& call);
  /// The experts of a planned call are done.
  void done(const SpillCall& call);

  /// Tokens of a micro-batch on all ranks, as far as all know: those of the last step until they are told. Among
  /// several coherence domains that is in the first layer's exchange: that layer decides by the last step's, all ranks
  /// alike, and may miss a spill, or gather counts in vain, where a step has many more or fewer tokens than the one
  /// before.
  [[nodiscard]] std::int64_t tokens(int micro_batch) const { return tokens_[micro_batch]; }
  void set_tokens(int micro_batch, std::int64_t tokens) { tokens_[micro_batch] = tokens; }

  [[nodiscard]] int experts() const { return layers_.front().experts; }
  [[nodiscard]] const DispatchLayer& layer(int layer) const { return layers_[layer]; }
  /// Of all that all ranks' caches went through.
  [[nodiscard]] std::uint64_t digest() const noexcept { return ledger_.digest(); }
  [[nodiscard]] const SpillCounts& counts() const noexcept { return counts_; }
  /// Ranks sent experts' weights.
  void sent(std::uint64_t bytes) noexcept { counts_.weight_bytes_sent += static_cast<std::int64_t>(bytes); }
  [[nodiscard]] bool keeps_any() const noexcept { return !kept_.empty(); }
  /// Drops what is kept, and keeps nothing more; all ranks do so between the same steps.
  void drop();
  /// The weights of an expert that this rank holds are others than before. No other rank need know.
  void weights_changed() noexcept { weights_changed_ = true; }

 private:
  /// Memory for `weights` is their own.
  struct Kept {
    DeviceMemory memory;
    ExpertWeights weights;
  };

  [[nodiscard]] bool can_ever_pay(int layer, std::int64_t rows) const;

  /// How a layer's last plans turned out.
  struct Patience {
    std::int64_t rows = 0;  ///< of the last plan
    int in_vain = 0;        ///< plans, one after the other, that didn't save what they cost
    int wait = 0;           ///< calls until the next plan, unless there are many more rows
  };

  SpillOptions options_;
  std::vector<DispatchLayer> layers_;
  std::vector<Patience> patience_;  ///< (layers)
  std::vector<bool> replicated_;    ///< (layers): some expert is held more than once
  int rank_;
  Device& device_;
  DispatchPlanner planner_;
  DispatchPlan own_;  ///< of options_.planner
  SpillLedger ledger_;
  std::map<SpillLedger::Key, std::shared_ptr<const Kept>> kept_;
  std::vector<std::int64_t> tokens_;  ///< (micro-batches)
  bool weights_changed_ = false;      ///< since the last gather
  std::int64_t overhead_;             ///< counts_gather as far as known by now, the same on all ranks
  /// What the last gather and the last plan took here, in picoseconds.
  std::int64_t last_gather_ = 0, last_plan_ = 0;
  SpillCounts counts_;
};

/// The layers of a plan as dispatch planning takes them.
[[nodiscard]] std::vector<DispatchLayer> dispatch_layers(const Plan& plan, const Ownership& ownership,
                                                         std::span<const int> node_of_rank);

}  // namespace coterie
