#include "comm/mpi_communicator.hpp"

#include "comm/mpi_job.hpp"
#include "tests/comm/communicator_conformance.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

#include <memory>

namespace coterie {
namespace {

constexpr CommOptions kOptions{.timeout = std::chrono::seconds(60)};

std::unique_ptr<Communicator> make_with(MpiPieces pieces) {
  return std::make_unique<MpiCommunicator>(test_session().job(), kOptions, pieces);
}

INSTANTIATE_TEST_SUITE_P(
    Transports, CommunicatorConformance,
    testing::Values(Transport{"mpi", [] { return make_mpi_communicator(test_session(), kOptions); }},
                    // Nearly every message takes the way that otherwise only messages over 1 GiB take.
                    Transport{"mpi_in_small_pieces", [] { return make_with({.first = 128, .rest = 1000}); }}),
    name_of);

TEST(MpiCommunicator, RanksOfOneMachineShareANode) {
  const auto comm = make_mpi_communicator(test_session(), kOptions);
  for (const int node : comm->node_of_rank()) EXPECT_EQ(node, 0);
}

TEST(MpiCommunicator, RanksPerNodeOverridesWhatWasFound) {
  const auto comm = make_mpi_communicator(test_session(), {.ranks_per_node = 2});
  for (int r = 0; r < comm->ranks(); ++r) EXPECT_EQ(comm->node_of_rank()[r], r / 2);
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
