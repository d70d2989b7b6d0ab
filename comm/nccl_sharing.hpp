// How NCCL is brought to take several ranks on one GPU.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace coterie {

/// The environment in which NCCL of this version takes several ranks on one GPU: right for tests, worthless for speed.
/// `one_host`: all ranks are on this one.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> environment_to_share_gpus(int version, int rank,
                                                                                         bool one_host);

}  // namespace coterie
