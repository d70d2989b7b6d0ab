#include "comm/mpi_communicator.hpp"

#include "comm/counting_communicator.hpp"
#include "comm/mpi_job.hpp"
#include "tests/comm/communicator_conformance.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>

#include <vector>

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

}  // namespace
}  // namespace coterie
