// What the communicators of one process share.
#pragma once

#include "comm/communicator.hpp"
#include "comm/roll_call.hpp"

#include <mpi.h>

#include <chrono>
#include <memory>
#include <vector>

namespace coterie {

/// Tags in Job::comm: one for the roll call, two for each communicator by its number.
constexpr int kRollCallTag = 0;
constexpr int first_piece_tag(int communicator) {
  return 1 + 2 * communicator;
}
constexpr int rest_tag(int communicator) {
  return 2 + 2 * communicator;
}

struct MpiSession::Job {
  MPI_Comm comm = MPI_COMM_NULL;  ///< all ranks; a duplicate of MPI_COMM_WORLD that only comm/ uses
  int rank = 0;
  int ranks = 1;
  std::vector<int> node_of_rank;        ///< (ranks): by shared memory
  int communicators = 0;                ///< made so far
  std::unique_ptr<RollCall> roll_call;  ///< none if there is one rank
  std::chrono::duration<double> longest_timeout{0};
  int exceptions = 0;  ///< under way when the session began
};

}  // namespace coterie
