#include "runtime/layers/ownership.hpp"

#include "placement/input_error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace coterie {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Ownership, MoreRanksThanExperts) {
  const Plan plan = contiguous_plan("m", {0}, 2, 1, Topology{{4}});
  const std::vector<int> nodes(4, 0);
  const Ownership last(plan, 3, nodes);
  EXPECT_TRUE(last.held(0).empty());
  EXPECT_EQ(std::vector(last.destinations(0, 3).begin(), last.destinations(0, 3).end()), (std::vector<int>{0, 1}));
}

TEST(Ownership, AReplicaNearbyIsPreferred) {
  Plan plan = contiguous_plan("m", {0}, 4, 1, Topology{{2, 2}});
  plan.slots_per_rank = 2;
  plan.physical_to_logical = {{0, 3, 1, -1, 2, 3, 3, -1}};  // expert 3 on ranks 0, 2 and 3
  validate(plan, "test");
  const std::vector<int> nodes{0, 0, 1, 1};
  EXPECT_EQ(Ownership(plan, 0, nodes).destinations(0, 0)[3], 0);
  EXPECT_EQ(Ownership(plan, 0, nodes).destinations(0, 1)[3], 0);
  EXPECT_EQ(Ownership(plan, 0, nodes).destinations(0, 2)[3], 2);
  EXPECT_EQ(Ownership(plan, 0, nodes).destinations(0, 3)[3], 3);
  EXPECT_EQ(Ownership(plan, 0, nodes).destinations(0, 3)[0], 0);
}

TEST(CheckPlan, NamesWhatDoesNotFit) {
  const Plan plan = contiguous_plan("m", {0, 1}, 8, 2, Topology{{2}});
  EXPECT_NO_THROW(check_plan(plan, "p.json", {0, 1}, 8, 2));
  EXPECT_THAT([&] { check_plan(plan, "p.json", {0, 1, 2}, 8, 2); }, ThrowsMessage<InputError>(HasSubstr("p.json")));
  EXPECT_THAT([&] { check_plan(plan, "p.json", {0, 1}, 16, 2); }, ThrowsMessage<InputError>(HasSubstr("16 experts")));
  EXPECT_THAT([&] { check_plan(plan, "p.json", {0, 1}, 8, 4); }, ThrowsMessage<InputError>(HasSubstr("4 ranks")));
}

}  // namespace
}  // namespace coterie
