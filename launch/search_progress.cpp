#include "launch/search_progress.hpp"

#include "placement/number_text.hpp"

#include <unistd.h>

#include <iostream>
#include <string>

namespace coterie {

SearchProgress::SearchProgress(std::ostream& out)
    : out_(out), terminal_(&out == &std::cerr && isatty(STDERR_FILENO) == 1) {}

void SearchProgress::line(std::string_view text) {
  using std::chrono::steady_clock;
  const auto now = steady_clock::now();
  const std::string shown =
      fixed(std::chrono::duration<double>(now - start_).count(), 0) + " s: " + std::string(text.substr(0, 70));
  if (terminal_) {
    const std::size_t before = shown_;
    shown_ = shown.size();
    out_ << '\r' << shown << std::string(before > shown_ ? before - shown_ : 0, ' ') << std::flush;
    return;
  }
  if (now < due_) return;
  due_ = now + std::chrono::seconds(10);
  out_ << "coterie plan: " << shown << std::endl;
}

void SearchProgress::clear() {
  if (terminal_ && shown_ > 0) out_ << '\r' << std::string(shown_, ' ') << '\r' << std::flush;
  shown_ = 0;
}

}  // namespace coterie
