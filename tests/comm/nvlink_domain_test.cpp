// Runs with libraries that stand in for those of a machine with two GPUs.
#include "comm/nvlink_domain.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

namespace coterie {
namespace {

using Ranks = std::vector<int>;
using Domains = std::vector<std::string>;

TEST(NvlinkDomain, OfAGpuIsItsClusterAndClique) {
  ::setenv("COTERIE_FAKE_CLUSTER", "7", 1);
  const std::string first = nvlink_domain("0000:1B:00.0");
  EXPECT_EQ(first, "07000000000000000000000000000000.1");
  EXPECT_EQ(nvlink_domain("0000:1C:00.0"), first);
  EXPECT_EQ(nvlink_domain("0000:1D:00.0"), "") << "no such GPU";
  ::setenv("COTERIE_FAKE_CLUSTER", "0", 1);
  EXPECT_EQ(nvlink_domain("0000:1B:00.0"), "") << "links inside the host only";
}

TEST(NvlinkDomain, NodesAreHostsWhereThereAreNone) {
  EXPECT_EQ(nodes_of(Ranks{0, 1, 0, 2}, Domains(4)), (Ranks{0, 1, 0, 2}));
}

TEST(NvlinkDomain, HostsOfOneDomainAreOneNode) {
  EXPECT_EQ(nodes_of(Ranks{0, 0, 1, 1, 2, 2}, Domains{"a", "a", "a", "a", "b", "b"}), (Ranks{0, 0, 0, 0, 1, 1}));
  // Also by way of a rank in between, and where some GPUs are in no domain.
  EXPECT_EQ(nodes_of(Ranks{0, 1, 0, 1}, Domains{"a", "", "", "a"}), (Ranks{0, 0, 0, 0}));
  EXPECT_EQ(nodes_of(Ranks{0, 1, 2}, Domains{"", "a", "a"}), (Ranks{0, 1, 1}));
}

}  // namespace
}  // namespace coterie
