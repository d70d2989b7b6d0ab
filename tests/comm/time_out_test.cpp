// What ranks say when one of them does not come, or comes to another place.
#include "comm/communicator.hpp"
#include "comm/faulty_communicator.hpp"
#include "comm/mpi_job.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

namespace coterie {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr CommOptions kShort{.timeout = milliseconds(300)};
constexpr seconds kUntilOthersGaveUp{3};

/// Ranks leave a test about faults at different times; they begin each one together.
class Together : public testing::Test {
 protected:
  void SetUp() override { (void)make_mpi_communicator(test_session(), {})->all_gather({}, {"the start of a test"}); }
};
using TimeOut = Together;
using Mismatch = Together;

/// The text of the CommError that `action` throws.
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const CommError& e) {
    return e.what();
  }
  ADD_FAILURE() << "no CommError";
  return "";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in '" << text << "'";
}

TEST_F(TimeOut, NamesTheAbsentRankTheCollectiveTheLayerAndTheStep) {
  const auto inner = make_mpi_communicator(test_session(), kShort);
  const bool absent = inner->rank() == 1;
  FaultyCommunicator comm(
      *inner, [&](const Place& p) { return absent && p.layer == 3 ? Fault::absent : Fault::none; }, kUntilOthersGaveUp);
  (void)comm.exchange(Outbox(comm.ranks()), {"dispatch", 2, 17});
  const std::string text = error_of([&] { (void)comm.exchange(Outbox(comm.ranks()), {"dispatch", 3, 17}); });
  expect_contains(text, "dispatch at layer 3, step 17");
  if (absent) return;
  expect_contains(text, "rank 1 did not arrive");
  expect_contains(text, "rank 1 does not answer, it was last seen at dispatch at layer 2, step 17");
}

TEST_F(TimeOut, HoldsForTheAllGatherToo) {
  const auto inner = make_mpi_communicator(test_session(), kShort);
  const bool absent = inner->rank() == 1;
  FaultyCommunicator comm(
      *inner, [&](const Place&) { return absent ? Fault::absent : Fault::none; }, kUntilOthersGaveUp);
  const std::string text = error_of([&] { (void)comm.all_gather({}, {"step report", -1, 4}); });
  if (absent) return;
  expect_contains(text, "timed out after 0.3 s at step report at step 4: rank 1 did not arrive");
  expect_contains(text, "last seen at the start");
}

TEST_F(TimeOut, HoldsForALargeMessageThatNobodyTakes) {
  const auto inner = make_mpi_communicator(test_session(), kShort);
  const bool absent = inner->rank() == 0;
  FaultyCommunicator comm(
      *inner, [&](const Place&) { return absent ? Fault::absent : Fault::none; }, kUntilOthersGaveUp);
  Outbox outbox;
  for (int to = 0; to < comm.ranks(); ++to) outbox.emplace_back(SectionSizes{8 << 20});
  const std::string text = error_of([&] { (void)comm.exchange(std::move(outbox), {"dispatch", 0, 0}); });
  if (!absent) expect_contains(text, "rank 0 did not arrive");
}

TEST_F(TimeOut, HoldsForWeightsThatDoNotFollowTheirRows) {
  const auto comm = make_mpi_communicator(test_session(), {.timeout = milliseconds(300), .ranks_per_node = 1});
  Outbox outbox(comm->ranks());
  const SectionSizes sizes = sizes_of({{Bulk::rows, 1000}, {Bulk::weights, 64 << 20}});
  if (comm->rank() == 0) outbox[2] = Message(sizes);
  comm->begin(std::move(outbox), {"dispatch", 3, 17});
  EXPECT_EQ(comm->wait_for_rows()[0].section(Bulk::rows).size(), comm->rank() == 2 ? 1000U : 0U);
  if (comm->rank() == 0) return std::this_thread::sleep_for(kUntilOthersGaveUp);
  if (comm->rank() != 2) return (void)comm->finish();
  const std::string text = error_of([&] { (void)comm->finish(); });
  expect_contains(text, "timed out after 0.3 s at dispatch at layer 3, step 17: rank 0 arrived but did not finish");
  expect_contains(text, "rank 0 does not answer");
}

TEST_F(TimeOut, ARankThatWaitsInAnotherPlaceSaysWhereItStands) {
  // Rank 2 hangs in the middle of its sends: rank 0 has its message and goes on, the others still wait for theirs.
  MpiSession::Job& job = test_session().job();
  const int tag = first_piece_tag(job.communicators);
  const bool first_to_time_out = job.rank == 0;
  const auto comm = make_mpi_communicator(test_session(), first_to_time_out ? kShort : CommOptions{});
  const Place combine{"combine", 2, 17}, dispatch{"dispatch", 3, 17};
  if (comm->rank() == 2) {
    Message message(SectionSizes{});
    message.mark({Stamp::Kind::exchange, combine});
    MPI_Send(message.wire().data(), static_cast<int>(message.wire().size()), MPI_BYTE, 0, tag, job.comm);
    std::this_thread::sleep_for(kUntilOthersGaveUp);
  } else if (comm->rank() == 0) {
    (void)comm->exchange(Outbox(comm->ranks()), combine);
    const std::string text = error_of([&] { (void)comm->exchange(Outbox(comm->ranks()), dispatch); });
    expect_contains(text, "at dispatch at layer 3, step 17");
    expect_contains(text, "did not arrive");
    expect_contains(text, "rank 1 stands at combine at layer 2, step 17, waiting for rank 2");
    expect_contains(text, "rank 2 does not answer, it was last seen at combine at layer 2, step 17");
  } else {
    const std::string text = error_of([&] { (void)comm->exchange(Outbox(comm->ranks()), combine); });
    expect_contains(text, "combine at layer 2, step 17");
    expect_contains(text, "rank 0 gave up");
  }
}

TEST_F(TimeOut, ThatARankGaveUpIsHeardInAnotherCommunicatorToo) {
  const bool gives_up = test_session().rank() == 0;
  const auto comm = make_mpi_communicator(test_session(), gives_up ? kShort : CommOptions{});
  const auto other = make_mpi_communicator(test_session(), {});
  if (!gives_up) (void)other->all_gather({}, {"counts", 3, 17});
  const std::string text = error_of([&] { (void)comm->exchange(Outbox(comm->ranks()), {"dispatch", 3, 17}); });
  if (gives_up) (void)other->all_gather({}, {"counts", 3, 17});
  expect_contains(text, gives_up ? "ranks 1, 2 and 3 did not arrive"
                                 : "dispatch at layer 3, step 17: rank 0 gave up: timed out after 0.3 s");
}

TEST_F(TimeOut, ARankThatWaitsInAnotherCommunicatorSaysWhereItStands) {
  const auto comm = make_mpi_communicator(test_session(), kShort);
  const auto other = make_mpi_communicator(test_session(), {.timeout = seconds(4)});
  if (comm->rank() == 1) {
    const std::string text = error_of([&] { (void)other->all_gather({}, {"the end of the job"}); });
    expect_contains(text, "timed out after 4 s at the end of the job");
  } else {
    const std::string text = error_of([&] { (void)comm->exchange(Outbox(comm->ranks()), {"dispatch", 3, 17}); });
    expect_contains(text, "rank 1 did not arrive");
    expect_contains(text, "rank 1 stands at the end of the job, waiting for ranks 0, 2 and 3");
  }
}

TEST_F(TimeOut, ARankThatIsOnlyLateIsWaitedFor) {
  const auto inner = make_mpi_communicator(test_session(), {.timeout = seconds(60)});
  FaultyCommunicator comm(
      *inner, [&](const Place& p) { return inner->rank() == p.layer ? Fault::delay : Fault::none; }, milliseconds(50));
  for (int layer = 0; layer < comm.ranks(); ++layer) {
    Outbox outbox;
    for (int to = 0; to < comm.ranks(); ++to) outbox.emplace_back(SectionSizes{}, 7);
    for (const Message& message : comm.exchange(std::move(outbox), {"dispatch", layer, 0})) {
      EXPECT_EQ(message.flags(), 7U);
    }
  }
}

TEST_F(TimeOut, ARankThatThrowsLeavesTheOthersWithItsName) {
  const auto inner = make_mpi_communicator(test_session(), kShort);
  const bool faulty = inner->rank() == 0;
  FaultyCommunicator comm(
      *inner, [&](const Place&) { return faulty ? Fault::throws : Fault::none; }, seconds(0));
  const std::string text = error_of([&] { (void)comm.exchange(Outbox(comm.ranks()), {"combine", 1, 2}); });
  expect_contains(text, "combine at layer 1, step 2");
  expect_contains(text, "rank 0");
}

TEST_F(TimeOut, AfterAFaultTheCommunicatorRefusesToGoOn) {
  const auto comm = make_mpi_communicator(test_session(), kShort);
  if (comm->rank() == 1) return;
  (void)error_of([&] { (void)comm->exchange(Outbox(comm->ranks()), {"dispatch", 3, 17}); });
  const std::string text = error_of([&] { (void)comm->exchange(Outbox(comm->ranks()), {"combine", 3, 17}); });
  expect_contains(text, "failed before, at dispatch at layer 3, step 17");
}

TEST_F(Mismatch, RanksAtDifferentPlacesAreToldBothPlaces) {
  const auto comm = make_mpi_communicator(test_session(), {.timeout = seconds(60)});
  const Place place = comm->rank() == 1 ? Place{"combine", 4, 17} : Place{"dispatch", 3, 17};
  const std::string text = error_of([&] {
    (void)comm->exchange(Outbox(comm->ranks()), {"dispatch", 2, 17});
    (void)comm->exchange(Outbox(comm->ranks()), place);
  });
  expect_contains(text, "dispatch at layer 3, step 17");
  expect_contains(text, "rank 1");
  expect_contains(text, "combine at layer 4, step 17");
}

TEST_F(Mismatch, AnExchangeIsNotAnAllGather) {
  const auto comm = make_mpi_communicator(test_session(), {.timeout = seconds(60)});
  const std::string text = error_of([&] {
    if (comm->rank() == 1) {
      (void)comm->all_gather({}, {"dispatch", 3, 17});
    } else {
      (void)comm->exchange(Outbox(comm->ranks()), {"dispatch", 3, 17});
    }
  });
  expect_contains(text, "dispatch at layer 3, step 17 (exchange)");
  expect_contains(text, "dispatch at layer 3, step 17 (all-gather)");
}

}  // namespace
}  // namespace coterie
