#include "tests/hostcuda/hostnccl.hpp"

#include "comm/mpi_check.hpp"
#include "comm/nccl.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

namespace {

constexpr std::size_t kPiece = 1 << 30;  // MPI counts in int

bool broken = false;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "hostcuda: NCCL: %s\n", what);
  std::abort();
}

/// One ncclSend or ncclRecv: sizes travel ahead, so that ends that differ are found out. MPI gets copies, as it can't
/// touch the device's memory.
struct Transfer {
  bool sends;
  std::byte* data;
  std::size_t bytes;
  int peer;
  ncclComm* comm;
  cudaStream_t stream;
  int place;  ///< among those of its group between the two, one way
  std::vector<std::byte> copy = {};
  std::size_t announced = 0;
  bool begun = false, size_known = false, taken = false;
  std::vector<MPI_Request> requests = {};

  void begin() {
    begun = true;
    copy.resize(bytes);
    if (!sends) return start(MPI_Irecv(&announced, sizeof announced, MPI_BYTE, peer, 2 * place, comm->comm, &add()));
    hostcuda::copy_between(copy.data(), data, bytes);
    announced = bytes;
    start(MPI_Isend(&announced, sizeof announced, MPI_BYTE, peer, 2 * place, comm->comm, &add()));
    move();
  }

  /// Whether it is done.
  bool poll() {
    if (!begun) begin();
    int done = 0;
    start(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE));
    if (done == 0 || sends) return done != 0;
    if (size_known) {
      if (!std::exchange(taken, true)) hostcuda::copy_between(data, copy.data(), bytes);
      return true;
    }
    size_known = true;
    if (announced != bytes) fail("a receive of another size than its send: on a GPU both would wait for ever");
    move();
    return false;
  }

 private:
  static void start(int code) {
    if (code != MPI_SUCCESS) fail("MPI fails");
  }
  MPI_Request& add() { return requests.emplace_back(MPI_REQUEST_NULL); }
  void move() {
    for (std::size_t at = 0; at < bytes; at += kPiece) {
      const int count = static_cast<int>(std::min(kPiece, bytes - at));
      start(sends ? MPI_Isend(copy.data() + at, count, MPI_BYTE, peer, 2 * place + 1, comm->comm, &add())
                  : MPI_Irecv(copy.data() + at, count, MPI_BYTE, peer, 2 * place + 1, comm->comm, &add()));
    }
  }
};

int depth = 0;
using Group = std::vector<std::unique_ptr<Transfer>>;
Group group;

ncclResult_t add(bool sends, void* data, std::size_t bytes, int peer, ncclComm* comm, cudaStream_t stream) {
  if (depth == 0) fail("a send or receive outside of a group, which waits for its peer's");
  if (!hostcuda::is_pinned(data, bytes) && !hostcuda::is_device_memory(data, bytes))
    fail("memory that GPUs don't reach");
  if (comm->joining != MPI_REQUEST_NULL) fail("a communicator is used before its start ended");
  if (comm->unlaunched) fail("a group begins before the one before it was launched");
  const auto place = std::ranges::count_if(
      group, [&](const auto& other) { return other->peer == peer && other->sends == sends && other->comm == comm; });
  group.push_back(std::unique_ptr<Transfer>(
      new Transfer{sends, static_cast<std::byte*>(data), bytes, peer, comm, stream, static_cast<int>(place)}));
  return ncclSuccess;
}

}  // namespace

namespace coterie {
std::string nccl_trouble() {
  return "";
}
}  // namespace coterie

void hostcuda::break_nccl(bool now) {
  broken = now;
}

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error" : "an error";
}

const char* ncclGetLastError(ncclComm_t) {
  return "the test double was told to fail";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int, ncclUniqueId, int, ncclConfig_t* config) {
  if (config->blocking != 0) fail("a communicator that blocks can't be watched");
  auto made = std::make_unique<ncclComm>();
  if (MPI_Comm_idup(MPI_COMM_WORLD, &made->comm, &made->joining) != MPI_SUCCESS) return ncclSystemError;
  *comm = made.release();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  int done = 1;
  if (comm->joining != MPI_REQUEST_NULL) MPI_Test(&comm->joining, &done, MPI_STATUS_IGNORE);
  if (done != 0 && comm->joined) std::exchange(comm->joined, nullptr)();
  *result = broken ? ncclRemoteError : done == 0 || comm->unlaunched ? ncclInProgress : ncclSuccess;
  comm->unlaunched = false;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  MPI_Ibarrier(comm->comm, &comm->joining);
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  MPI_Comm_free(&comm->comm);
  delete comm;
  return ncclSuccess;
}

/// What MPI may still do with it stays until the process ends.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->aborted = true;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--depth > 0 || group.empty()) return ncclSuccess;
  const auto transfers = std::make_shared<Group>(std::move(group));
  group.clear();
  ncclComm* comm = transfers->front()->comm;
  cudaStream_t stream = transfers->front()->stream;
  if (std::ranges::any_of(*transfers, [&](const auto& transfer) { return transfer->stream != stream; })) {
    fail("a group on several streams, which all wait for each other");
  }
  comm->unlaunched = true;
  hostcuda::enqueue(stream, [transfers, comm] {
    if (comm->aborted) {
      static auto& left_behind = *new std::vector<std::shared_ptr<Group>>;
      left_behind.push_back(transfers);  // MPI may still write there
      return true;
    }
    bool done = true;
    for (const auto& transfer : *transfers) done = transfer->poll() && done;
    return done;
  });
  return ncclInProgress;
}

ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(true, const_cast<void*>(data), count, peer, comm, stream);
}

ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add(false, data, count, peer, comm, stream);
}
