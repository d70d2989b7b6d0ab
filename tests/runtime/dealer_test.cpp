#include "runtime/dealer.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace coterie {
namespace {

Request request_of(int max_tokens) {
  Request request;
  request.prompt = {1};
  request.max_tokens = max_tokens;
  return request;
}

TEST(Dealer, TheRankWithTheLeastWorkGetsTheNextRequest) {
  std::vector<int> lengths{100, 10, 10, 10, 10, 10};
  std::size_t next = 0;
  Dealer dealer(2, 8, [&]() -> std::optional<Request> {
    if (next == lengths.size()) return std::nullopt;
    return request_of(lengths[next++]);
  });
  std::vector<int> ranks;
  for (const auto& dealt : dealer.deal()) ranks.push_back(dealt.rank);
  EXPECT_EQ(ranks, (std::vector<int>{0, 1, 1, 1, 1, 1}));
  EXPECT_TRUE(dealer.exhausted());
}

TEST(Dealer, HoldsRequestsBackUntilARankHasRoom) {
  std::int64_t given = 0;
  Dealer dealer(2, 3, [&]() -> std::optional<Request> {
    ++given;
    return request_of(5);
  });
  EXPECT_EQ(dealer.deal().size(), 12U);  // twice the batch of each rank
  EXPECT_TRUE(dealer.deal().empty());
  EXPECT_EQ(given, 12);
  dealer.finished(1, 2, 2 * expected_work(request_of(5)));
  const auto more = dealer.deal();
  ASSERT_EQ(more.size(), 2U);
  EXPECT_EQ(more[0].rank, 1);
  EXPECT_EQ(more[1].rank, 1);
  EXPECT_FALSE(dealer.exhausted());
}

}  // namespace
}  // namespace coterie
