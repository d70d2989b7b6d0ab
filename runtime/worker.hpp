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
};

class Worker {
 public:
  /// Loads the rank's share of the weights. All arguments but the checkpoint and the plan outlive this object.
  /// Throws InputError when the checkpoint doesn't fit the spec.
  Worker(const ModelSpec& spec, const Checkpoint& checkpoint, const Plan& plan, const Tokenizer* tokenizer,
         Device& device, Communicator& comm, const WorkerOptions& options);

  [[nodiscard]] Scheduler& scheduler() noexcept { return scheduler_; }
  [[nodiscard]] const WorkMetrics& metrics() const noexcept { return metrics_; }
  [[nodiscard]] const KvPool& kv() const noexcept { return kv_; }

  /// Told of every routing decision, with the batch that it belongs to.
  using TraceObserver = std::function<void(const Batch& batch, int layer, const Routing& routing)>;
  void observe_routing(TraceObserver observer) { observer_ = std::move(observer); }

  /// One step of all sequences on this rank: schedule, forward, sample. Collective, also for an idle rank.
  [[nodiscard]] std::vector<Completion> step(std::int64_t step);

 private:
  Ownership ownership_;
  Weights weights_;
  KvPool kv_;
  Scratch scratch_;
  WorkMetrics metrics_;
  RankContext context_;
  Transformer transformer_;
  Scheduler scheduler_;
  TraceObserver observer_;
};

}  // namespace coterie
