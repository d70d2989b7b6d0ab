#include "launch/choose_transport.hpp"

#include "runtime/engine/agreement.hpp"
#include "tests/hostcuda/nccl.h"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

class ChooseTransport : public testing::Test {
 protected:
  ChosenTransport choose(Transport asked, bool share, std::optional<int> gpu,
                         std::optional<bool> low_latency = std::nullopt) {
    GenerateOptions options;
    options.transport = asked;
    options.share_gpu = share;
    options.low_latency = low_latency;
    return choose_transport(options, gpu, test_session(), *mpi_);
  }
  std::unique_ptr<Communicator> mpi_ = make_mpi_communicator(test_session(), {});
};

TEST_F(ChooseTransport, IsNcclByItselfWhereEveryRankHasAGpuOfItsOwn) {
  EXPECT_EQ(choose(Transport::any, false, 0).nccl != nullptr, mpi_->ranks() > 1);
  EXPECT_EQ(choose(Transport::any, true, 0).nccl, nullptr);
  EXPECT_EQ(choose(Transport::any, false, std::nullopt).nccl, nullptr);
  EXPECT_EQ(choose(Transport::mpi, false, 0).nccl, nullptr);
}

TEST_F(ChooseTransport, SharedGpusAreReachedWhenAskedFor) {
  const ChosenTransport chosen = choose(Transport::nccl, true, 0);
  ASSERT_EQ(chosen.nccl != nullptr, mpi_->ranks() > 1);
  if (!chosen.nccl) return;
  const Inbox inbox = chosen.nccl->exchange(Outbox(static_cast<std::size_t>(mpi_->ranks())), {"dispatch"});
  EXPECT_EQ(inbox.size(), static_cast<std::size_t>(mpi_->ranks()));
}

TEST_F(ChooseTransport, LowLatencyIsUsedWhenAskedForAndSaysWhyItIsNot) {
  const bool several = mpi_->ranks() > 1;
  EXPECT_EQ(choose(Transport::nccl, true, 0, true).low_latency, several);
  EXPECT_FALSE(choose(Transport::nccl, true, 0, false).low_latency);
  const ChosenTransport chosen = choose(Transport::nccl, true, 0);
  EXPECT_EQ(
      chosen.note.find(chosen.low_latency ? "go by the GPUs alone: " : "go by NCCL's groups: ") != std::string::npos,
      several);
  if (!several) return;
  hostcuda::set_ranks_in_reach(0);
  EXPECT_NE(choose(Transport::nccl, true, 0).note.find("by the GPUs alone they can't: rank 0: "), std::string::npos);
  EXPECT_THROW((void)choose(Transport::nccl, true, 0, true), AgreedError);
  hostcuda::set_ranks_in_reach(2);
  EXPECT_THROW((void)choose(Transport::mpi, true, 0, true), AgreedError);
}

TEST_F(ChooseTransport, ARankWithoutGpuIsNamedOnAllRanks) {
  if (mpi_->ranks() == 1) return;
  const std::optional<int> gpu = mpi_->rank() == 1 ? std::nullopt : std::optional(0);
  try {
    (void)choose(Transport::nccl, false, gpu);
    ADD_FAILURE() << "no AgreedError";
  } catch (const AgreedError& e) {
    EXPECT_NE(std::string(e.what()).find("--transport nccl: rank 1: it computes on the CPU"), std::string::npos);
  }
}

}  // namespace
}  // namespace coterie
