#include "comm/nccl_sharing.hpp"

#include <unistd.h>

#include <array>

namespace coterie {

std::vector<std::pair<std::string, std::string>> environment_to_share_gpus(int version, int rank, bool one_host) {
  constexpr int knows_sharing = 23003;
  if (version >= knows_sharing) return {{"NCCL_MULTI_RANK_GPU_ENABLE", "1"}};
  // NCCL refuses two ranks of one host on one GPU; so each says that it is a host of its own.
  std::array<char, 256> host{};
  (void)::gethostname(host.data(), host.size() - 1);
  std::vector<std::pair<std::string, std::string>> environment{
      {"NCCL_HOSTID", std::string(host.data()) + "-rank-" + std::to_string(rank)},
      {"NCCL_NET", "Socket"},
      {"NCCL_IB_DISABLE", "1"},
      {"NCCL_P2P_DISABLE", "1"},
      {"NCCL_SHM_DISABLE", "1"},
      {"NCCL_NVLS_ENABLE", "0"},
      {"NCCL_PROTO", "Simple"},
      {"NCCL_MAX_CTAS", "2"}};
  if (one_host) environment.emplace_back("NCCL_SOCKET_IFNAME", "lo");
  return environment;
}

}  // namespace coterie
