// The job's main loop: ranks step together until every request is answered or the job is told to stop.
#pragma once

#include "comm/communicator.hpp"
#include "runtime/engine/dealer.hpp"
#include "runtime/engine/host_memory.hpp"
#include "runtime/engine/step_report.hpp"
#include "runtime/engine/worker.hpp"

#include <atomic>
#include <exception>
#include <functional>
#include <string>

namespace coterie {

struct EngineHooks {
  /// Rank 0: the requests, in their order; nothing at the end.
  std::function<std::optional<Request>()> next_request;
  /// Any rank: the line of the results file for a request that it answered.
  std::function<std::string(const Completion&)> render;
  /// Rank 0: takes lines in the order in which requests finish. What this or next_request throws stops the job.
  std::function<void(const std::string& line)> write;
  /// Rank 0, before every step: requests answered and rows through the model so far, on all ranks.
  std::function<void(std::int64_t requests, std::int64_t rows)> progress;
  /// Set by a signal handler of any rank: all ranks stop after the same step.
  const std::atomic<bool>* stop = nullptr;
  /// Any rank: asked before every step; on yes, all ranks drop what they keep for speed alone.
  std::function<bool()> short_of_memory = [memory = HostMemory()] { return memory.is_short(); };
};

class Engine {
 public:
  /// All arguments outlive this object.
  Engine(Worker& worker, Communicator& comm, int max_batch_size, EngineHooks hooks);

  /// Collective. The same answer on every rank; what ranks tell one another between steps
  /// rides in the layers' exchanges.
  [[nodiscard]] Stop run();

  /// Requests answered and rows through the model, on all ranks.
  [[nodiscard]] std::int64_t answered() const noexcept { return answered_; }
  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  /// Rank 0: what a hook threw when `run` returned Stop::output_failed.
  [[nodiscard]] std::exception_ptr output_error() const noexcept { return output_error_; }

 private:
  [[nodiscard]] StepReport report();
  void take(int from, const StepReport& report);
  /// Runs `body` unless something failed before; keeps what it throws.
  void guarded(const std::function<void()>& body);

  Worker& worker_;
  Communicator& comm_;
  EngineHooks hooks_;
  Dealer dealer_;
  std::vector<RowSample> samples_;    ///< of the last step
  std::vector<std::string> results_;  ///< not yet reported
  std::int64_t finished_work_ = 0;    ///< of those
  std::int64_t reported_rows_ = 0;
  std::int64_t rows_ = 0;         ///< through the model so far, on all ranks
  std::int64_t answered_ = 0;     ///< requests so far, on all ranks
  std::int64_t outstanding_ = 0;  ///< requests dealt to all ranks and not answered
  std::exception_ptr output_error_;
};

}  // namespace coterie
