// What a person sees of a job that runs: a bar on a terminal, a line now and then in a log.
#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <string>

namespace coterie {

/// How far a job is.
struct Standing {
  std::int64_t requests_done = 0;  ///< of this run
  std::int64_t requests = 0;       ///< to do in this run
  std::int64_t tokens = 0;         ///< through the model, prompts included: the rate
  std::int64_t work_left = 0;      ///< tokens that are still to come at most: the time left
};

/// Call `update` as often as convenient; it writes when it is time to.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  /// `out` must outlive this object. A bar is drawn over at most five times a second; a line comes every 10 s.
  Progress(std::ostream& out, bool terminal, Clock::time_point now = Clock::now());

  void update(const Standing& standing, Clock::time_point now = Clock::now());
  /// The last word: a line that stays.
  void finish(const Standing& standing, Clock::time_point now = Clock::now());

 private:
  [[nodiscard]] std::string figures(const Standing& standing, Clock::time_point now, bool done) const;

  std::ostream& out_;
  bool terminal_;
  Clock::time_point start_;
  Clock::time_point due_;
};

}  // namespace coterie
