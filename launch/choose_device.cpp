#include "launch/choose_device.hpp"

#include "kernels/cuda_devices.hpp"
#include "runtime/engine/agreement.hpp"

#include <algorithm>
#include <map>

namespace coterie {
namespace {

/// What each rank sees.
std::vector<std::vector<std::string>> gather_gpus(Communicator& comm) {
  std::string mine;
  for (const std::string& gpu : cuda_devices()) mine += gpu + '\n';
  std::vector<std::vector<std::string>> seen;
  for (const auto& bytes : comm.all_gather(std::as_bytes(std::span(mine)), {"GPUs"})) {
    seen.emplace_back();
    std::string line;
    for (const std::byte byte : bytes) {
      const char c = static_cast<char>(byte);
      if (c != '\n') {
        line += c;
      } else {
        seen.back().push_back(std::exchange(line, {}));
      }
    }
  }
  return seen;
}

}  // namespace

std::vector<int> gpus_of_ranks(std::span<const std::vector<std::string>> seen, bool share) {
  std::map<std::string, int> ranks_of;
  std::vector<int> gpus;
  for (const std::vector<std::string>& mine : seen) {
    const auto fewest = std::ranges::min_element(mine, {}, [&](const std::string& gpu) { return ranks_of[gpu]; });
    const bool taken = fewest == mine.end() || (ranks_of[*fewest] > 0 && !share);
    gpus.push_back(taken ? -1 : static_cast<int>(fewest - mine.begin()));
    if (!taken) ++ranks_of[*fewest];
  }
  return gpus;
}

std::optional<int> choose_gpu(const GenerateOptions& options, Communicator& comm) {
  if (options.device == DeviceKind::cpu) return std::nullopt;
  const auto seen = gather_gpus(comm);
  const std::vector<int> gpus = gpus_of_ranks(seen, options.share_gpu);
  const auto without = std::ranges::find(gpus, -1);
  if (without == gpus.end()) return gpus[comm.rank()];
  if (options.device == DeviceKind::any) return std::nullopt;
  const auto rank = without - gpus.begin();
  throw AgreedError("coterie generate: --device cuda: rank " + std::to_string(rank) + " found " +
                    (seen[rank].empty() ? "no GPU, or no driver for it, or a program built without CUDA; expected a GPU"
                                        : "no GPU that no other rank has; expected one for each (or --share-gpu)"));
}

std::unique_ptr<Device> make_device(const GenerateOptions& options, std::optional<int> gpu) {
  const DeviceOptions device{options.dtype, options.threads, gpu ? options.dtype : DType::f32, options.cuda_graphs};
  return gpu ? make_cuda_device(device, *gpu, options.expert_kernels) : make_cpu_device(device);
}

}  // namespace coterie
