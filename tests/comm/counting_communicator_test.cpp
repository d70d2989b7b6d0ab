#include "comm/counting_communicator.hpp"

#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

TEST(CountingCommunicator, CountsCallsMessagesAndBytesByPlace) {
  const auto inner = make_mpi_communicator(test_session(), {});
  CountingCommunicator comm(*inner);
  const std::uint64_t others = comm.ranks() - 1;
  for (int step = 0; step < 3; ++step) {
    Outbox outbox;
    for (int to = 0; to < comm.ranks(); ++to) outbox.emplace_back(SectionSizes{100, 8});
    (void)comm.exchange(std::move(outbox), {"dispatch", 2, step});
    (void)comm.exchange(Outbox(comm.ranks()), {"combine", 2, step});
  }
  const std::byte mine[10] = {};
  (void)comm.all_gather(mine, {"counts", 2, 0});

  EXPECT_EQ(comm.calls("exchange"), 6);
  EXPECT_EQ(comm.calls("all_gather"), 1);
  EXPECT_EQ(comm.traffic().size(), 3U);
  const Traffic& dispatch = comm.traffic().at({"exchange", "dispatch", 2});
  EXPECT_EQ(dispatch.calls, 3);
  EXPECT_EQ(dispatch.messages, 3 * comm.ranks() - 3);
  EXPECT_EQ(dispatch.section_bytes, (SectionSizes{300 * others, 24 * others}));
  EXPECT_EQ(dispatch.bytes, 3 * others * Message(SectionSizes{100, 8}).wire().size());
  const Traffic& combine = comm.traffic().at({"exchange", "combine", 2});
  EXPECT_EQ(combine.messages, 0);
  EXPECT_EQ(combine.bytes, 3 * others * Message(SectionSizes{}).wire().size());
  EXPECT_EQ(comm.traffic().at({"all_gather", "counts", 2}).messages, comm.ranks() - 1);
}

TEST(CountingCommunicator, CountsGroupsApartWhichMayDifferBetweenRanks) {
  const auto inner = make_mpi_communicator(test_session(), {});
  CountingCommunicator comm(*inner);
  const char* mine = comm.rank() == 0 ? "decode" : "prefill";
  (void)comm.exchange(Outbox(comm.ranks()), {"dispatch", 2, 0, mine});
  (void)comm.exchange(Outbox(comm.ranks()), {"dispatch", 2, 1, "decode"});
  EXPECT_EQ(comm.traffic().at({"exchange", "dispatch", 2, "decode"}).calls, comm.rank() == 0 ? 2 : 1);
  EXPECT_EQ(comm.calls("exchange"), 2);
}

TEST(CountingCommunicator, PassesOnWhatTheInnerOneReturns) {
  const auto inner = make_mpi_communicator(test_session(), {});
  CountingCommunicator comm(*inner);
  const std::byte mine[1] = {std::byte(comm.rank())};
  const auto all = comm.all_gather(mine, {"ranks"});
  for (int r = 0; r < comm.ranks(); ++r) EXPECT_EQ(all.at(r).at(0), std::byte(r));
  Outbox outbox;
  for (int to = 0; to < comm.ranks(); ++to) outbox.emplace_back(SectionSizes{1}, comm.rank());
  const Inbox inbox = comm.exchange(std::move(outbox), {"dispatch"});
  for (int r = 0; r < comm.ranks(); ++r) EXPECT_EQ(inbox.at(r).flags(), std::uint64_t(r));
  EXPECT_EQ(comm.node_of_rank().size(), inner->node_of_rank().size());
}

}  // namespace
}  // namespace coterie
