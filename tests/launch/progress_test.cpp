#include "launch/progress.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

namespace coterie {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(Progress, ALogGetsALineEveryTenSeconds) {
  std::ostringstream out;
  const Progress::Clock::time_point start{};
  Progress progress(out, false, start);
  for (int i = 1; i <= 25'000; i += 10) progress.update({i / 1000, 50, i, 50'000 - i}, start + milliseconds(i));
  progress.finish({50, 50, 50'000, 0}, start + seconds(50));
  EXPECT_EQ(out.str(),
            "coterie: 10 of 50 requests, 1000 tokens/s, 40 s left\n"
            "coterie: 20 of 50 requests, 1000 tokens/s, 30 s left\n"
            "coterie: 50 of 50 requests, 1000 tokens/s, 50 s\n");
}

TEST(Progress, ATerminalGetsABarThatIsDrawnOver) {
  std::ostringstream out;
  const Progress::Clock::time_point start{};
  Progress progress(out, true, start);
  for (int i = 0; i <= 1000; ++i) progress.update({0, 8, i, 7200 - i}, start + milliseconds(i));
  const std::string text = out.str();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\r'), 6);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 0);
  EXPECT_NE(text.find("[###....................."), std::string::npos);
  progress.finish({8, 8, 7200, 0}, start + seconds(3723));
  EXPECT_TRUE(out.str().ends_with("coterie: 8 of 8 requests, 2 tokens/s, 1:02:03\n")) << out.str();
}

TEST(Progress, NothingToDoIsNoDivisionByZero) {
  std::ostringstream out;
  const Progress::Clock::time_point start{};
  Progress progress(out, true, start);
  progress.update({}, start);
  progress.finish({}, start);
  EXPECT_TRUE(out.str().ends_with("coterie: 0 of 0 requests, 0 tokens/s, 0 s\n"));
}

}  // namespace
}  // namespace coterie
