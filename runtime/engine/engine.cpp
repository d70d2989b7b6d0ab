#include "runtime/engine/engine.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace coterie {

Engine::Engine(Worker& worker, Communicator& comm, int max_batch_size, EngineHooks hooks)
    : worker_(worker),
      comm_(comm),
      hooks_(std::move(hooks)),
      dealer_(worker.domains(), max_batch_size, hooks_.next_request) {}

Stop Engine::run() {
  Spill* const spill = worker_.spill();
  for (std::int64_t step = 0;; ++step) {  // in the first one there is nothing to compute
    const StepReport mine = report();
    worker_.notes().post(mine.to_bytes());
    if (step > 0) worker_.forward(step);
    const auto reports = worker_.notes().take({"step report", -1, step});
    Stop stop = Stop::none;
    bool exhausted = false;
    bool short_of_memory = false;
    for (int rank = 0; rank < comm_.ranks(); ++rank) {
      const StepReport theirs = StepReport::from_bytes(reports[rank]);
      stop = std::max(stop, theirs.stop);
      exhausted = exhausted || theirs.exhausted;
      short_of_memory = short_of_memory || theirs.short_of_memory;
      if (theirs.spill_digest != mine.spill_digest) {
        throw std::runtime_error("step " + std::to_string(step) + ": rank " + std::to_string(rank) +
                                 " knows the spill caches otherwise than rank " + std::to_string(comm_.rank()));
      }
      take(rank, theirs);
    }
    if (short_of_memory && spill != nullptr) spill->drop();
    if (stop != Stop::none || (exhausted && outstanding_ == 0)) return stop;
    if (hooks_.progress && comm_.rank() == 0) hooks_.progress(answered_, rows_);
    if (step > 0) samples_ = worker_.sample();
    for (const Completion& done : worker_.scheduler().finished()) {
      worker_.metrics().generated += static_cast<std::int64_t>(done.tokens.size());
      finished_work_ += expected_work(done.request);
      results_.push_back(hooks_.render(done));
    }
  }
}

StepReport Engine::report() {
  StepReport report;
  if (hooks_.stop != nullptr && hooks_.stop->load()) report.stop = Stop::by_signal;
  if (Spill* const spill = worker_.spill(); spill != nullptr) {
    report.spill_digest = spill->digest();
    report.short_of_memory = spill->keeps_any() && hooks_.short_of_memory();
  }
  const std::int64_t rows = worker_.metrics().prompt_rows + worker_.metrics().decode_rows;
  report.rows = rows - std::exchange(reported_rows_, rows);
  report.finished_work = std::exchange(finished_work_, 0);
  report.samples = std::exchange(samples_, {});
  report.results = std::exchange(results_, {});
  if (comm_.rank() == 0) {
    guarded([&] { report.dealt = dealer_.deal(); });
    report.exhausted = dealer_.exhausted();
  }
  if (output_error_) report.stop = Stop::output_failed;
  return report;
}

void Engine::take(int from, const StepReport& report) {
  const Domains& domains = worker_.domains();
  const auto answered = static_cast<std::int64_t>(report.results.size());
  outstanding_ += static_cast<std::int64_t>(report.dealt.size()) - answered;
  answered_ += answered;
  rows_ += report.rows;
  for (const Dealer::Dealt& dealt : report.dealt) {
    if (dealt.domain == domains.of(comm_.rank())) worker_.scheduler().add(dealt.request);
  }
  if (domains.together(from, comm_.rank())) {
    for (const RowSample& sample : report.samples) worker_.scheduler().accept(sample);
  }
  if (comm_.rank() != 0) return;
  dealer_.finished(domains.of(from), answered, report.finished_work);
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
