#include "launch/choose_transport.hpp"

#include "runtime/engine/agreement.hpp"

#include <array>
#include <cstdio>
#include <utility>

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

/// "12.3 us"
std::string microseconds(double seconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f us", 1e6 * seconds);
  return text.data();
}

/// What is to be said of what was found; empty where the user left nothing open.
std::string note_of(const LowLatencyFound& found, std::optional<bool> asked) {
  if (asked) return "";
  std::string text = "coterie: small messages go by " + std::string(found.used ? "the GPUs alone" : "NCCL's groups");
  if (!found.trouble.empty()) return text + "; by the GPUs alone they can't: " + found.trouble + '\n';
  return text + ": an exchange takes " + microseconds(found.used ? found.seconds : found.seconds_without) + ", by " +
         (found.used ? "NCCL's groups " : "the GPUs alone ") +
         microseconds(found.used ? found.seconds_without : found.seconds) + '\n';
}

LowLatency wanted(std::optional<bool> asked) {
  if (!asked) return LowLatency::automatic;
  return *asked ? LowLatency::on : LowLatency::off;
}

std::unique_ptr<Communicator> make_nccl(const GenerateOptions& options, int gpu, MpiSession& session,
                                        LowLatencyFound& found) {
  return make_nccl_communicator(
      session, {{options.timeout, options.ranks_per_node}, gpu, options.share_gpu, wanted(options.low_latency)},
      &found);
}

}  // namespace

ChosenTransport choose_transport(const GenerateOptions& options, std::optional<int> gpu, MpiSession& session,
                                 Communicator& mpi) {
  const bool asked = options.transport == Transport::nccl;
  const auto without_nccl = [&](const std::string& note) -> ChosenTransport {
    if (options.low_latency == true) {
      throw AgreedError("coterie generate: --low-latency on: exchanges go through MPI; expected --transport nccl");
    }
    return {nullptr, note};
  };
  if (mpi.ranks() == 1) return {};
  if (options.transport == Transport::mpi || (!asked && (!gpu || options.share_gpu))) return without_nccl("");
  if (const std::string trouble = trouble_on_any(gpu, mpi); !trouble.empty()) {
    if (asked) throw AgreedError("coterie generate: --transport nccl: " + trouble);
    return without_nccl("coterie: exchanges go through MPI and the hosts' memory, without NCCL: " + trouble + '\n');
  }
  LowLatencyFound found;
  auto nccl = make_nccl(options, gpu.value_or(0), session, found);
  if (options.low_latency == true && !found.used) {
    throw AgreedError("coterie generate: --low-latency on: " + found.trouble);
  }
  return {std::move(nccl), note_of(found, options.low_latency), found.used};
}

}  // namespace coterie
