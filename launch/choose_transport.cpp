#include "launch/choose_transport.hpp"

#include "comm/nccl.hpp"
#include "runtime/engine/agreement.hpp"

namespace coterie {
namespace {

/// Why NCCL can't be used, on the first rank that can't; empty: all can.
std::string trouble_on_any(std::optional<int> gpu, Communicator& mpi) {
  const std::string mine = gpu ? nccl_trouble() : "it computes on the CPU";
  const auto all = mpi.all_gather(std::as_bytes(std::span(mine)), {"NCCL"});
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const auto* text = reinterpret_cast<const char*>(all[rank].data());
    return "rank " + std::to_string(rank) + ": " + std::string(text, all[rank].size());
  }
  return "";
}

}  // namespace

ChosenTransport choose_transport(const GenerateOptions& options, std::optional<int> gpu, MpiSession& session,
                                 Communicator& mpi) {
  const bool asked = options.transport == Transport::nccl;
  if (mpi.ranks() == 1 || options.transport == Transport::mpi) return {};
  if (!asked && (!gpu || options.share_gpu)) return {};
  if (const std::string trouble = trouble_on_any(gpu, mpi); !trouble.empty()) {
    if (asked) throw AgreedError("coterie generate: --transport nccl: " + trouble);
    return {nullptr, "coterie: exchanges go through MPI and the hosts' memory, without NCCL: " + trouble + '\n'};
  }
  return {
      make_nccl_communicator(session, {{options.timeout, options.ranks_per_node}, gpu.value_or(0), options.share_gpu}),
      ""};
}

}  // namespace coterie
