#include "launch/start_limit.hpp"

#include "launch/command.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace coterie {

StartLimit::StartLimit(std::chrono::duration<double> limit) noexcept {
  static char text[96];  // for the handler, which may not make one
  static int length = 0;
  const double seconds = std::ceil(std::min(limit.count(), 1e9));
  length = std::snprintf(text, sizeof text, "coterie: timed out after %g s at MPI_Init: some rank does not start\n",
                         seconds);
  ::signal(SIGALRM, [](int) {
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, static_cast<std::size_t>(length));
    std::_Exit(kFault);
  });
  ::alarm(static_cast<unsigned>(seconds));
}

StartLimit::~StartLimit() {
  ::alarm(0);
  ::signal(SIGALRM, SIG_DFL);
}

}  // namespace coterie
