#include "placement/dispatch/nearest_holders.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

using Ranks = std::vector<int>;

TEST(NearestHolders, AHolderKeepsItsRows) {
  EXPECT_EQ(nearest_holders(Ranks{1, 2}, Ranks{0, 0, 0, 0}), (Ranks{1, 1, 2, 2}));
}

TEST(NearestHolders, RowsStayInTheNodeWhereTheyCan) {
  EXPECT_EQ(nearest_holders(Ranks{0, 5}, Ranks{0, 0, 1, 1, 2, 2}), (Ranks{0, 0, 0, 5, 5, 5}));
}

TEST(NearestHolders, SendersAreDealtOutEvenlyInBlocks) {
  EXPECT_EQ(nearest_holders(Ranks{0, 1}, Ranks(8, 0)), (Ranks{0, 1, 0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(nearest_holders(Ranks{0, 1, 2}, Ranks{0, 1, 2, 3, 4, 5, 6, 7, 8}), (Ranks{0, 1, 2, 0, 0, 1, 1, 2, 2}));
}

TEST(NearestHolders, NodesMayBeInAnyOrder) {
  EXPECT_EQ(nearest_holders(Ranks{1, 2}, Ranks{1, 0, 1, 0, 1}), (Ranks{2, 1, 2, 1, 2}));
}

}  // namespace
}  // namespace coterie
