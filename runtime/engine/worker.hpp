// Everything that one rank has: its share of the weights, its KV cache, its layers, its sequences.
#pragma once

#include "comm/note_carrier.hpp"
#include "runtime/engine/metrics.hpp"
#include "runtime/engine/scheduler.hpp"
#include "runtime/engine/transformer.hpp"
#include "runtime/experts/spill.hpp"

#include <chrono>
#include <memory>
#include <optional>

namespace coterie {

struct WorkerOptions {
  SchedulerOptions scheduler;
  std::int64_t kv_blocks = 0;
  DType weights = DType::f32;
  Coherence coherence = Coherence::rank;
  int micro_batches = 1;
  std::optional<SpillOptions> spill;  ///< none: rows are computed where the plan says
};

class Worker {
 public:
  /// Loads the rank's share of the weights. All arguments but the checkpoint and the plan outlive this object.
  /// Throws InputError when the checkpoint doesn't fit the spec.
  Worker(const ModelSpec& spec, const Checkpoint& checkpoint, const Plan& plan, const Tokenizer* tokenizer,
         Device& device, Communicator& comm, const WorkerOptions& options);

  [[nodiscard]] Scheduler& scheduler() noexcept { return scheduler_; }
  [[nodiscard]] WorkMetrics& metrics() noexcept { return metrics_; }
  [[nodiscard]] const KvPool& kv() const noexcept { return kv_; }
  /// None where nothing is ever spilled.
  [[nodiscard]] Spill* spill() noexcept { return spill_.get(); }

  [[nodiscard]] const Domains& domains() const noexcept { return domains_; }

  void observe_routing(RoutingObserver observer) { observer_ = std::move(observer); }

  /// What ranks tell one another; a note that was posted before travels with the first exchange of `forward`.
  [[nodiscard]] NoteCarrier& notes() noexcept { return notes_; }

  /// A step of the domain's sequences up to the logits. Collective, also for an idle rank.
  void forward(std::int64_t step);
  /// The step's end, after the scheduler accepted all tokens of the step before. Returns what is to be accepted in the
  /// next one.
  [[nodiscard]] std::vector<RowSample> sample();

 private:
  /// To whoever observes prompts.
  void show_logits();
  void count(const Batch& batch, double seconds);

  NoteCarrier notes_;
  Domains domains_;
  Ownership ownership_;
  Weights weights_;
  KvPool kv_;
  WorkMetrics metrics_;
  std::unique_ptr<Spill> spill_;
  RankContext context_;
  Transformer transformer_;
  Scheduler scheduler_;
  RoutingObserver observer_;
  std::chrono::steady_clock::time_point step_start_;
  const Batch* batch_ = nullptr;  ///< of the step under way
  Logits logits_;                 ///< the same
};

}  // namespace coterie
