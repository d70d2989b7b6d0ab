// A limit on the time that MPI takes to start: it has none of its own, and a rank may stop before the others know it.
#pragma once

#include <chrono>

namespace coterie {

/// While it lives, the process ends with code 3 and a line on stderr once `limit` has passed; that of the first rank to
/// end makes the launcher end the others. Uses SIGALRM; one at a time.
class StartLimit {
 public:
  explicit StartLimit(std::chrono::duration<double> limit) noexcept;
  ~StartLimit();
  StartLimit(const StartLimit&) = delete;
  StartLimit& operator=(const StartLimit&) = delete;
};

}  // namespace coterie
