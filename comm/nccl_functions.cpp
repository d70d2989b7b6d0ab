// The functions of NCCL that the project calls, each handed on to the library that is loaded at run time.
#include "comm/nccl.hpp"
#include "comm/nccl_function.hpp"

#include <nccl.h>

std::string coterie::nccl_trouble() {
  constexpr int oldest = 21800;  // with communicators that don't block
  if (!nccl_library()) return nccl_library().error();
  const int version = nccl_version();
  if (version >= oldest) return "";
  return "NCCL " + std::to_string(version) + " (" + nccl_library().path() + "), expected 21800 (2.18) or later";
}

const char* ncclGetErrorString(ncclResult_t result) {
  COTERIE_NCCL(ncclGetErrorString);
  return call(result);
}
const char* ncclGetLastError(ncclComm_t comm) {
  COTERIE_NCCL(ncclGetLastError);
  return call(comm);
}
ncclResult_t ncclGetVersion(int* version) {
  COTERIE_NCCL(ncclGetVersion);
  return call(version);
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  COTERIE_NCCL(ncclGetUniqueId);
  return call(id);
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  COTERIE_NCCL(ncclCommInitRankConfig);
  return call(comm, ranks, id, rank, config);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  COTERIE_NCCL(ncclCommGetAsyncError);
  return call(comm, result);
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  COTERIE_NCCL(ncclCommFinalize);
  return call(comm);
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  COTERIE_NCCL(ncclCommDestroy);
  return call(comm);
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  COTERIE_NCCL(ncclCommAbort);
  return call(comm);
}
ncclResult_t ncclGroupStart() {
  COTERIE_NCCL(ncclGroupStart);
  return call();
}
ncclResult_t ncclGroupEnd() {
  COTERIE_NCCL(ncclGroupEnd);
  return call();
}
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  COTERIE_NCCL(ncclSend);
  return call(data, count, type, peer, comm, stream);
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  COTERIE_NCCL(ncclRecv);
  return call(data, count, type, peer, comm, stream);
}
