#include "runtime/engine/dealer.hpp"

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

Domains two_ranks() {
  return Domains(Coherence::rank, 0, std::vector<int>{0, 0});
}

TEST(Dealer, TheRankWithTheLeastWorkGetsTheNextRequest) {
  std::vector<int> lengths{100, 10, 10, 10, 10, 10};
  std::size_t next = 0;
  Dealer dealer(two_ranks(), 8, [&]() -> std::optional<Request> {
    if (next == lengths.size()) return std::nullopt;
    return request_of(lengths[next++]);
  });
  std::vector<int> ranks;
  for (const auto& dealt : dealer.deal()) ranks.push_back(dealt.domain);
  EXPECT_EQ(ranks, (std::vector<int>{0, 1, 1, 1, 1, 1}));
  EXPECT_TRUE(dealer.exhausted());
}

TEST(Dealer, HoldsRequestsBackUntilARankHasRoom) {
  std::int64_t given = 0;
  Dealer dealer(two_ranks(), 3, [&]() -> std::optional<Request> {
    ++given;
    return request_of(5);
  });
  EXPECT_EQ(dealer.deal().size(), 12U);  // twice the batch of each rank
  EXPECT_TRUE(dealer.deal().empty());
  EXPECT_EQ(given, 12);
  dealer.finished(1, 2, 2 * expected_work(request_of(5)));
  const auto more = dealer.deal();
  ASSERT_EQ(more.size(), 2U);
  EXPECT_EQ(more[0].domain, 1);
  EXPECT_EQ(more[1].domain, 1);
  EXPECT_FALSE(dealer.exhausted());
}

TEST(Dealer, ADomainOfMoreRanksGetsMore) {
  const Domains domains(Coherence::node, 0, std::vector<int>{0, 0, 0, 1});
  Dealer dealer(domains, 2, [] { return std::optional<Request>(request_of(9)); });
  int first = 0;
  const auto dealt = dealer.deal();
  for (const auto& d : dealt) first += d.domain == 0 ? 1 : 0;
  EXPECT_EQ(dealt.size(), 16U);
  EXPECT_EQ(first, 12);
}

}  // namespace
}  // namespace coterie
