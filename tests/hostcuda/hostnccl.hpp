// What the parts of the emulated NCCL share.
#pragma once

#include "tests/hostcuda/nccl.h"

#include <mpi.h>

#include <functional>

/// Every rank of the job is in every communicator.
struct ncclComm {
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Request joining = MPI_REQUEST_NULL;  ///< its start, its end, or what else all ranks do together
  std::function<void()> joined;            ///< what then follows
  bool unlaunched = false;                 ///< the last group has not come to its stream yet
  bool aborted = false;
};
