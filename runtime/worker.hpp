// Everything that one rank has: its share of the weights, its KV cache, its layers, its sequences.
#pragma once

#include "runtime/metrics.hpp"
#include "runtime/scheduler.hpp"
#include "runtime/transformer.hpp"

#include <memory>

namespace coterie {

struct WorkerOptions {
  SchedulerOptions scheduler;
  std::int64_t kv_blocks = 0;
  DType weights = DType::f32;
  Coherence coherence = Coherence::rank;
  int micro_batches = 1;
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

  [[nodiscard]] const Domains& domains() const noexcept { return domains_; }

  void observe_routing(RoutingObserver observer) { observer_ = std::move(observer); }

  /// One step of the domain's sequences: schedule, forward, sample. Collective, also for an idle rank. Returns the
  /// tokens of the rows that ended the step on this rank; all ranks of the domain then take them all in.
  [[nodiscard]] std::vector<RowSample> step(std::int64_t step);

 private:
  void count(const Batch& batch, double seconds);

  Domains domains_;
  Ownership ownership_;
  Weights weights_;
  KvPool kv_;
  WorkMetrics metrics_;
  RankContext context_;
  Transformer transformer_;
  Scheduler scheduler_;
  RoutingObserver observer_;
};

}  // namespace coterie
