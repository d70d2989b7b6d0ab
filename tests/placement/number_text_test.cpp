#include "placement/number_text.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

TEST(NumberText, IsWhatPeopleRead) {
  EXPECT_EQ(fixed(2.345, 2), "2.35");
  EXPECT_EQ(percent(0.5534), "55.3 %");
  EXPECT_EQ(percent(0.00123, 2), "0.12 %");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1234567.4), "1,234,567");
  EXPECT_EQ(grouped(-1234), "-1,234");
}

TEST(NumberText, KeepsThreeDigitsAcrossUnits) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1024), "1.00 KiB");
  EXPECT_EQ(bytes_text(1536.0 * 1024 * 1024), "1.50 GiB");
  EXPECT_EQ(metric(46.7e9), "46.7 G");
  EXPECT_EQ(metric(999.9e6), "1.00 G");
  EXPECT_EQ(metric(3.1e-6), "3.10 u");
  EXPECT_EQ(metric(450), "450 ");
  EXPECT_EQ(metric(0), "0 ");
}

}  // namespace
}  // namespace coterie
