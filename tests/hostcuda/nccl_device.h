// Stands in for NCCL's header of this name: windows, which are memory that the ranks' processes share.
#pragma once

#include "tests/hostcuda/nccl.h"

#include <cstddef>

struct ncclTeam_t {
  int nRanks, rank, stride;
};
ncclTeam_t ncclTeamLsa(ncclComm_t comm);
void* ncclGetLocalPointer(ncclWindow_t window, std::size_t offset);
void* ncclGetLsaPointer(ncclWindow_t window, std::size_t offset, int peer);
