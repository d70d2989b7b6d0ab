// Where the seconds of a job go.
#pragma once

#include <chrono>

namespace coterie {

/// Seconds of one rank.
struct PhaseSeconds {
  double attention = 0;
  double router = 0;
  double exchange = 0;  ///< packing, waiting for the others, unpacking
  double experts = 0;
  double head = 0;
};

/// Adds the time of its own life to `seconds`.
class Timed {
 public:
  explicit Timed(double& seconds) : seconds_(seconds) {}
  ~Timed() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace coterie
