// Which device a rank computes on.
#pragma once

#include "comm/communicator.hpp"
#include "kernels/device.hpp"
#include "launch/generate_options.hpp"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace coterie {

/// A GPU for each rank, by its place among those that the rank sees (their UUIDs): one that no rank before it has,
/// else, with `share`, one that the fewest have, else -1.
[[nodiscard]] std::vector<int> gpus_of_ranks(std::span<const std::vector<std::string>> seen, bool share);

/// This rank's GPU; nothing: the CPU, which --device auto takes unless there is a GPU for each rank. Collective. Throws
/// AgreedError where --device cuda asks for what is not there.
[[nodiscard]] std::optional<int> choose_gpu(const GenerateOptions& options, Communicator& comm);

[[nodiscard]] std::unique_ptr<Device> make_device(const GenerateOptions& options, std::optional<int> gpu);

}  // namespace coterie
