#include "tests/hostcuda/emulation.hpp"
#include "tests/hostcuda/hostnccl.hpp"
#include "tests/hostcuda/nccl_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

/// Of the ranks of the team, this one's memory among them.
struct ncclWindow_vidmem {
  std::vector<void*> memory;
  std::size_t bytes = 0;
  int rank = 0;
};

namespace {

std::vector<ncclWindow_t> windows;
ncclWindow_vidmem registered;  // what memory is where it is not symmetric

/// A file in memory, which other processes find by this one's number and the file's here.
struct Shared {
  int file;
  std::size_t bytes;
};
std::map<void*, Shared>& allocated = *new std::map<void*, Shared>;
int in_reach = 1 << 20;  // ranks

struct Place {
  int process, file;
};

void* map(int file, std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) hostcuda::fail("memory can't be shared");
  return memory;
}

}  // namespace

void hostcuda::set_ranks_in_reach(int ranks) {
  in_reach = ranks;
}

ncclResult_t ncclMemAlloc(void** memory, std::size_t bytes) {
  const int file = memfd_create("hostcuda", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) return ncclSystemError;
  *memory = map(file, bytes);
  hostcuda::spoil(*memory, bytes);
  allocated[*memory] = {file, bytes};
  return ncclSuccess;
}

ncclResult_t ncclMemFree(void* memory) {
  const auto found = allocated.find(memory);
  if (found == allocated.end()) return ncclInvalidUsage;
  munmap(memory, found->second.bytes);
  close(found->second.file);
  allocated.erase(found);
  return ncclSuccess;
}

/// The window is there when the communicator is ready again. Where GPUs don't reach one another it is none.
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void* memory, std::size_t bytes, ncclWindow_t* window, int flags) {
  const auto found = allocated.find(memory);
  if (found == allocated.end() || bytes > found->second.bytes || bytes % 4096 != 0) return ncclInvalidUsage;
  if (flags != NCCL_WIN_COLL_SYMMETRIC) return ncclInvalidUsage;
  if (in_reach == 0) {
    *window = &registered;
    return ncclSuccess;
  }
  int ranks = 0;
  MPI_Comm_size(comm->comm, &ranks);
  const auto mine = std::make_shared<Place>(Place{getpid(), found->second.file});
  const auto all = std::make_shared<std::vector<Place>>(static_cast<std::size_t>(ranks));
  MPI_Iallgather(mine.get(), sizeof(Place), MPI_BYTE, all->data(), sizeof(Place), MPI_BYTE, comm->comm, &comm->joining);
  comm->joined = [=] {
    const ncclTeam_t team = ncclTeamLsa(comm);
    int rank = 0;
    MPI_Comm_rank(comm->comm, &rank);
    auto made = std::make_unique<ncclWindow_vidmem>();
    made->bytes = bytes;
    made->rank = team.rank;
    for (int peer = 0; peer < team.nRanks; ++peer) {
      const Place& place = (*all)[static_cast<std::size_t>(rank - team.rank + peer)];
      const std::string path = "/proc/" + std::to_string(place.process) + "/fd/" + std::to_string(place.file);
      const int file = peer == team.rank ? -1 : open(path.c_str(), O_RDWR | O_CLOEXEC);
      made->memory.push_back(peer == team.rank ? memory : map(file, bytes));
      if (file >= 0) close(file);
    }
    *window = windows.emplace_back(made.release());
    (void)mine;
  };
  return ncclInProgress;
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t, ncclWindow_t window) {
  if (window == &registered) return ncclSuccess;
  if (std::erase(windows, window) == 0) return ncclInvalidUsage;
  for (int peer = 0; peer < static_cast<int>(window->memory.size()); ++peer) {
    if (peer != window->rank) munmap(window->memory[static_cast<std::size_t>(peer)], window->bytes);
  }
  delete window;
  return ncclSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  attributes->type =
      std::ranges::find(windows, pointer) == windows.end() ? cudaMemoryTypeUnregistered : cudaMemoryTypeDevice;
  return cudaSuccess;
}

ncclTeam_t ncclTeamLsa(ncclComm_t comm) {
  int rank = 0, ranks = 0;
  MPI_Comm_rank(comm->comm, &rank);
  MPI_Comm_size(comm->comm, &ranks);
  const int first = rank / in_reach * in_reach;
  return {std::min(in_reach, ranks - first), rank - first, 1};
}

void* ncclGetLocalPointer(ncclWindow_t window, std::size_t offset) {
  return ncclGetLsaPointer(window, offset, window->rank);
}

void* ncclGetLsaPointer(ncclWindow_t window, std::size_t offset, int peer) {
  return static_cast<std::byte*>(window->memory.at(static_cast<std::size_t>(peer))) + offset;
}
