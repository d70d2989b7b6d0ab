#include "launch/choose_device.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

using Seen = std::vector<std::vector<std::string>>;

TEST(ChooseDevice, EachRankOfAHostHasAGpuOfItsOwn) {
  const std::vector<std::string> host{"a", "b", "c"}, other{"d", "e"};
  EXPECT_EQ(gpus_of_ranks(Seen{host, other, host, other, host}, false), (std::vector<int>{0, 0, 1, 1, 2}));
  EXPECT_EQ(gpus_of_ranks(Seen{host, other, other, other}, false), (std::vector<int>{0, 0, 1, -1}));
}

TEST(ChooseDevice, ARankMaySeeNoGpuButItsOwn) {
  EXPECT_EQ(gpus_of_ranks(Seen{{"a"}, {"b"}, {"c"}}, false), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(gpus_of_ranks(Seen{{"a"}, {}, {"c"}}, true), (std::vector<int>{0, -1, 0}));
}

TEST(ChooseDevice, RanksShareGpusEvenlyWhereTheyMay) {
  const std::vector<std::string> host{"a", "b"};
  EXPECT_EQ(gpus_of_ranks(Seen{host, host, host, host, host}, true), (std::vector<int>{0, 1, 0, 1, 0}));
  EXPECT_EQ(gpus_of_ranks(Seen{host, host, host}, false), (std::vector<int>{0, 1, -1}));
}

}  // namespace
}  // namespace coterie
