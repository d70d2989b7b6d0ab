#include "launch/progress.hpp"

#include <algorithm>
#include <cmath>
#include <ostream>

namespace coterie {
namespace {

constexpr auto kBarEvery = std::chrono::milliseconds(200);
constexpr auto kLineEvery = std::chrono::seconds(10);
constexpr int kBarWidth = 24;

/// "7 s", "3:07", "1:02:03"
std::string spell(double seconds) {
  const auto s = static_cast<std::int64_t>(std::llround(std::min(seconds, 1e12)));
  if (s < 60) return std::to_string(s) + " s";
  const auto two = [](std::int64_t n) { return std::to_string(100 + n).substr(1); };
  if (s < 3600) return std::to_string(s / 60) + ":" + two(s % 60);
  return std::to_string(s / 3600) + ":" + two(s / 60 % 60) + ":" + two(s % 60);
}

std::string bar(const Standing& s) {
  const double whole = static_cast<double>(s.tokens + s.work_left);
  const double share = whole > 0 ? static_cast<double>(s.tokens) / whole : 1;
  const int filled = std::clamp(static_cast<int>(share * kBarWidth), 0, kBarWidth);
  std::string text = "[";
  return text.append(filled, '#').append(kBarWidth - filled, '.').append("] ");
}

}  // namespace

Progress::Progress(std::ostream& out, bool terminal, Clock::time_point now)
    : out_(out), terminal_(terminal), start_(now), due_(now + (terminal ? Clock::duration(0) : kLineEvery)) {}

std::string Progress::figures(const Standing& s, Clock::time_point now, bool done) const {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(s.tokens) / seconds : 0;
  std::string text = std::to_string(s.requests_done) + " of " + std::to_string(s.requests) + " requests, " +
                     std::to_string(std::llround(rate)) + " tokens/s";
  if (done) return text + ", " + spell(seconds);
  if (rate > 0) text += ", " + spell(static_cast<double>(s.work_left) / rate) + " left";
  return text;
}

void Progress::update(const Standing& standing, Clock::time_point now) {
  if (now < due_) return;
  due_ = now + (terminal_ ? Clock::duration(kBarEvery) : Clock::duration(kLineEvery));
  const std::string text = figures(standing, now, false);
  if (terminal_) {
    out_ << "\r\x1b[K" << bar(standing) << text << std::flush;
  } else {
    out_ << "coterie: " << text << std::endl;
  }
}

void Progress::finish(const Standing& standing, Clock::time_point now) {
  out_ << (terminal_ ? "\r\x1b[K" : "") << "coterie: " << figures(standing, now, true) << std::endl;
}

}  // namespace coterie
