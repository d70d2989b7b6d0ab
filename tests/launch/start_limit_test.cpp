#include "launch/start_limit.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

namespace coterie {
namespace {

using std::chrono::seconds;

TEST(StartLimit, EndsAProcessThatWaitsForRanksThatNeverStart) {
  const auto wait = [] {
    const StartLimit limit(seconds(1));
    for (;;) pause();
  };
  EXPECT_EXIT(wait(), testing::ExitedWithCode(3), "timed out after 1 s at MPI_Init");
}

TEST(StartLimit, LimitsNothingElse) {
  const auto start = [] {
    { const StartLimit limit(seconds(1)); }
    sleep(2);
    _exit(0);
  };
  EXPECT_EXIT(start(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace coterie
