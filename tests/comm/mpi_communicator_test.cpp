#include "comm/mpi_communicator.hpp"

#include "comm/mpi_job.hpp"
#include "tests/comm/communicator_conformance.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

#include <memory>
#include <thread>

namespace coterie {
namespace {

constexpr CommOptions kOptions{.timeout = std::chrono::seconds(60)};

constexpr CommOptions kNodes{.timeout = std::chrono::seconds(60), .ranks_per_node = 1};

std::unique_ptr<Communicator> make_with(MpiPieces pieces, const CommOptions& options = kOptions) {
  return std::make_unique<MpiCommunicator>(test_session().job(), options, pieces);
}

INSTANTIATE_TEST_SUITE_P(
    Transports, CommunicatorConformance,
    testing::Values(Transport{"mpi", [] { return make_mpi_communicator(test_session(), kOptions); }},
                    // Nearly every message takes the way that otherwise only messages over 1 GiB take.
                    Transport{"mpi_in_small_pieces", [] { return make_with({.first = 128, .rest = 1000}); }},
                    // Weights come later than rows.
                    Transport{"mpi_between_nodes",
                              [] { return make_with({.first = 128, .rest = 5000, .weights = 1000}, kNodes); }}),
    name_of);

TEST(MpiCommunicator, RanksOfOneMachineShareANode) {
  const auto comm = make_mpi_communicator(test_session(), kOptions);
  for (const int node : comm->node_of_rank()) EXPECT_EQ(node, 0);
}

TEST(MpiCommunicator, RanksPerNodeOverridesWhatWasFound) {
  const auto comm = make_mpi_communicator(test_session(), {.ranks_per_node = 2});
  for (int r = 0; r < comm->ranks(); ++r) EXPECT_EQ(comm->node_of_rank()[r], r / 2);
}

TEST(MpiCommunicator, RowsDoNotWaitForWeightsFromAnotherNode) {
  if (test_session().ranks() != 2) return;
  constexpr std::uint64_t kWeights = 64 << 20;
  const auto comm = make_mpi_communicator(test_session(), kNodes);
  const bool sends = comm->rank() == 0;
  Outbox outbox(2);
  const SectionSizes sizes = sizes_of({{Bulk::rows, 1000}, {Bulk::weights, kWeights}});
  if (sends) outbox[1] = Message(sizes, 5);
  comm->begin(std::move(outbox), {"dispatch", 0, 0});
  Inbox& rows = comm->wait_for_rows();
  EXPECT_EQ(rows[0].section(Bulk::rows).size(), sends ? 0U : 1000U);
  if (sends) std::this_thread::sleep_for(std::chrono::milliseconds(300));  // nothing moves while the sender works
  EXPECT_EQ(comm->progress(), false);
  Inbox all = comm->finish();
  EXPECT_EQ(all[0].section(Bulk::weights).size(), sends ? 0U : kWeights);
}

TEST(MpiCommunicator, BytesThatContradictTheirHeaderAreRefused) {
  MpiSession::Job& job = test_session().job();
  const int tag = first_piece_tag(job.communicators);
  const auto comm = make_mpi_communicator(test_session(), kOptions);
  const Place place{"dispatch", 1, 2};
  if (comm->ranks() == 1) return;
  if (comm->rank() == 0) {
    Message message(SectionSizes{100});
    message.mark({Stamp::Kind::exchange, place});
    const auto cut = message.wire().first(message.wire().size() - 64);
    for (int r = 1; r < comm->ranks(); ++r) {
      MPI_Send(cut.data(), static_cast<int>(cut.size()), MPI_BYTE, r, tag, job.comm);
    }
  } else {
    EXPECT_THROW((void)comm->exchange(Outbox(comm->ranks()), place), CommError);
  }
}

}  // namespace
}  // namespace coterie
