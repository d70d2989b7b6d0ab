#include "runtime/engine/agreement.hpp"

#include "tests/mpi_main.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace coterie {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

class AgreementTest : public testing::Test {
 protected:
  bool last() const { return comm_->rank() == comm_->ranks() - 1; }
  std::unique_ptr<Communicator> comm_ = make_mpi_communicator(test_session(), {});
};

TEST_F(AgreementTest, AnErrorOnOneRankEndsAll) {
  EXPECT_NO_THROW(all_or_none(*comm_, [] {}));
  EXPECT_THAT(([&] {
                all_or_none(*comm_, [&] {
                  if (last()) throw InputError("model.safetensors: missing");
                });
              }),
              ThrowsMessage<AgreedError>(HasSubstr("model.safetensors: missing")));
}

TEST_F(AgreementTest, WhatDiffersIsNamedOnAllRanks) {
  EXPECT_NO_THROW(expect_same(*comm_, {{"model", "a"}, {"plan", "b"}}));
  if (comm_->ranks() == 1) return;
  const std::string mine = last() ? "other" : "b";
  EXPECT_THAT(([&] {
                expect_same(*comm_, {{"model", "a"}, {"plan", mine}});
              }),
              ThrowsMessage<AgreedError>(
                  AllOf(HasSubstr("plan"), HasSubstr("\"other\" on rank " + std::to_string(comm_->ranks() - 1)))));
}

TEST_F(AgreementTest, SmallestAndGathered) {
  EXPECT_EQ(smallest(*comm_, 100 - comm_->rank()), 101 - comm_->ranks());
  const std::string mine(static_cast<std::size_t>(comm_->rank()), 'x');
  const auto all = gather_on_first(*comm_, std::as_bytes(std::span(mine)), {"test"});
  if (comm_->rank() != 0) {
    EXPECT_TRUE(all.empty());
    return;
  }
  ASSERT_EQ(all.size(), static_cast<std::size_t>(comm_->ranks()));
  for (std::size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r].size(), r);
}

}  // namespace
}  // namespace coterie
