#include "runtime/engine.hpp"

#include <algorithm>

namespace coterie {

Engine::Engine(Worker& worker, Communicator& comm, int max_batch_size, EngineHooks hooks)
    : worker_(worker),
      comm_(comm),
      hooks_(std::move(hooks)),
      dealer_(comm.ranks(), max_batch_size, hooks_.next_request) {}

Stop Engine::run() {
  for (std::int64_t step = 0;; ++step) {
    const auto gathered = comm_.all_gather(report().to_bytes(), {"step report", -1, step});
    Stop stop = Stop::none;
    bool exhausted = false;
    for (int rank = 0; rank < comm_.ranks(); ++rank) {
      StepReport theirs = StepReport::from_bytes(gathered[rank]);
      stop = std::max(stop, theirs.stop);
      exhausted = exhausted || theirs.exhausted;
      take(rank, std::move(theirs));
    }
    if (stop != Stop::none || (exhausted && outstanding_ == 0)) return stop;
    if (hooks_.progress && comm_.rank() == 0) hooks_.progress(answered_, rows_);
    done_ = worker_.step(step);
  }
}

StepReport Engine::report() {
  StepReport report;
  if (hooks_.stop != nullptr && hooks_.stop->load()) report.stop = Stop::by_signal;
  const std::int64_t rows = worker_.metrics().prompt_rows + worker_.metrics().decode_rows;
  report.rows = rows - reported_rows_;
  reported_rows_ = rows;
  for (const Completion& done : done_) {
    report.finished_work += expected_work(done.request);
    report.results.push_back(hooks_.render(done));
  }
  done_.clear();
  if (comm_.rank() == 0) {
    guarded([&] { report.dealt = dealer_.deal(); });
    report.exhausted = dealer_.exhausted();
  }
  if (output_error_) report.stop = Stop::output_failed;
  return report;
}

void Engine::take(int from, StepReport report) {
  const auto answered = static_cast<std::int64_t>(report.results.size());
  outstanding_ += static_cast<std::int64_t>(report.dealt.size()) - answered;
  answered_ += answered;
  rows_ += report.rows;
  for (Dealer::Dealt& dealt : report.dealt) {
    if (dealt.rank == comm_.rank()) worker_.scheduler().add(std::move(dealt.request));
  }
  if (comm_.rank() != 0) return;
  dealer_.finished(from, answered, report.finished_work);
  guarded([&] {
    for (const std::string& line : report.results) hooks_.write(line);
  });
}

void Engine::guarded(const std::function<void()>& body) {
  if (output_error_) return;
  try {
    body();
  } catch (...) {
    output_error_ = std::current_exception();
  }
}

}  // namespace coterie
