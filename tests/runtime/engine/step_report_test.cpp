#include "runtime/engine/step_report.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

TEST(StepReport, TravelsWhole) {
  StepReport report;
  report.stop = Stop::by_signal;
  report.exhausted = true;
  report.rows = 7;
  report.finished_work = 99;
  report.results = {"first", "", "third\n"};
  Request request;
  request.custom_id = "x";
  request.prompt = {1, 2, 3};
  request.stop = {"end"};
  report.dealt.push_back({3, request});

  const auto bytes = report.to_bytes();
  const StepReport copy = StepReport::from_bytes(bytes);
  EXPECT_EQ(copy.stop, Stop::by_signal);
  EXPECT_TRUE(copy.exhausted);
  EXPECT_EQ(copy.rows, 7);
  EXPECT_EQ(copy.finished_work, 99);
  EXPECT_EQ(copy.results, report.results);
  ASSERT_EQ(copy.dealt.size(), 1U);
  EXPECT_EQ(copy.dealt[0].domain, 3);
  EXPECT_EQ(copy.dealt[0].request.prompt, request.prompt);
  EXPECT_EQ(copy.dealt[0].request.stop, request.stop);

  for (std::size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_THROW((void)StepReport::from_bytes(std::span(bytes).first(n)), std::runtime_error) << n << " bytes";
  }
}

}  // namespace
}  // namespace coterie
