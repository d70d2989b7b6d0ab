// What the communicators of one process share.
#pragma once

#include "comm/communicator.hpp"

#include <mpi.h>

#include <chrono>
#include <vector>

namespace coterie {

struct MpiSession::Job {
  MPI_Comm comm = MPI_COMM_NULL;  ///< all ranks; a duplicate of MPI_COMM_WORLD that only comm/ uses
  int rank = 0;
  int ranks = 1;
  std::vector<int> node_of_rank;  ///< (ranks): by shared memory
  int communicators = 0;          ///< made so far; each has its own tags in `comm`
  std::chrono::duration<double> longest_timeout{0};
  int exceptions = 0;  ///< under way when the session began
};

}  // namespace coterie
