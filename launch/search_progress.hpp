// How far a search is, for a person: one line that is written over on a terminal, a line every 10 s in a log.
#pragma once

#include <chrono>
#include <iosfwd>
#include <string_view>

namespace coterie {

class SearchProgress {
 public:
  /// `out` must outlive this object; it is taken for a terminal when it is standard error and that is one.
  explicit SearchProgress(std::ostream& out);

  void line(std::string_view text);
  /// Takes the line off the terminal.
  void clear();

 private:
  std::ostream& out_;
  bool terminal_;
  std::size_t shown_ = 0;  // characters on the terminal's line
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point due_ = start_;
};

}  // namespace coterie
