// The functions of NCCL that windows take, which came later than those of nccl_functions.cpp.
#include "comm/nccl_function.hpp"

#include <nccl_device.h>

ncclResult_t ncclMemAlloc(void** memory, size_t bytes) {
  COTERIE_NCCL(ncclMemAlloc);
  return call(memory, bytes);
}
ncclResult_t ncclMemFree(void* memory) {
  COTERIE_NCCL(ncclMemFree);
  return call(memory);
}
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void* memory, size_t bytes, ncclWindow_t* window, int flags) {
  COTERIE_NCCL(ncclCommWindowRegister);
  return call(comm, memory, bytes, window, flags);
}
ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window) {
  COTERIE_NCCL(ncclCommWindowDeregister);
  return call(comm, window);
}
ncclTeam_t ncclTeamLsa(ncclComm_t comm) {
  using TeamOf = ncclTeam_t(ncclComm_t);  // the header overloads the name
  static const auto call = coterie::nccl_function<TeamOf>("ncclTeamLsa");
  return call(comm);
}
