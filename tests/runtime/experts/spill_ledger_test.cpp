#include "runtime/experts/spill_ledger.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

using Key = SpillLedger::Key;

TEST(SpillLedger, TheLeastRecentlyUsedGoesFirst) {
  SpillLedger ledger(2, 3, 4, 25, 10);  // two experts fit
  EXPECT_FALSE(ledger.use({0, 1}, 0));
  EXPECT_FALSE(ledger.use({2, 3}, 0));
  EXPECT_TRUE(ledger.use({0, 1}, 0));
  EXPECT_FALSE(ledger.use({1, 1}, 0));  // in place of expert 3 of layer 2
  EXPECT_EQ(ledger.keys(0), (std::list<Key>{{1, 1}, {0, 1}}));
  EXPECT_TRUE(ledger.keys(1).empty());
  EXPECT_TRUE(ledger.kept(2).empty());
  ASSERT_EQ(ledger.kept(1).size(), 8U);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(ledger.kept(1)[i], i == 1 * 2 + 0 ? 1 : 0);  // (experts, ranks)
}

TEST(SpillLedger, KeepsNothingWhereNoExpertFits) {
  SpillLedger ledger(1, 1, 4, 9, 10);
  EXPECT_FALSE(ledger.use({0, 1}, 0));
  EXPECT_FALSE(ledger.use({0, 1}, 0));
  EXPECT_TRUE(ledger.kept(0).empty());
}

TEST(SpillLedger, WhatIsClearedIsKeptAgainWhenItIsUsedAgain) {
  SpillLedger ledger(1, 1, 4, 100, 10);
  ledger.use({0, 1}, 0);
  ledger.clear();
  EXPECT_FALSE(ledger.keeps({0, 1}, 0));
  EXPECT_FALSE(ledger.use({0, 1}, 0));
  EXPECT_TRUE(ledger.keeps({0, 1}, 0));
}

TEST(SpillLedger, NothingIsKeptOnceItIsClosed) {
  SpillLedger ledger(1, 1, 4, 100, 10);
  ledger.use({0, 1}, 0);
  ledger.close();
  EXPECT_FALSE(ledger.keeps({0, 1}, 0));
  EXPECT_TRUE(ledger.kept(0).empty());
  EXPECT_FALSE(ledger.use({0, 1}, 0));
  EXPECT_FALSE(ledger.keeps({0, 1}, 0));
}

TEST(SpillLedger, RanksThatDifferAreFound) {
  SpillLedger a(2, 2, 4, 30, 10), b(2, 2, 4, 30, 10);
  for (SpillLedger* ledger : {&a, &b}) {
    ledger->use({0, 1}, 0);
    ledger->use({1, 1}, 1);
  }
  EXPECT_EQ(a.digest(), b.digest());
  a.use({0, 2}, 0);
  b.use({0, 2}, 1);
  EXPECT_NE(a.digest(), b.digest());
  a.use({0, 1}, 0);
  b.use({0, 1}, 0);
  EXPECT_NE(a.digest(), b.digest()) << "it is not forgotten";
}

}  // namespace
}  // namespace coterie
