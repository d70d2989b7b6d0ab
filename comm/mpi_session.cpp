#include "comm/communicator.hpp"
#include "comm/mpi_check.hpp"
#include "comm/mpi_job.hpp"
#include "comm/roll_call.hpp"

#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>

namespace coterie {
namespace {

/// (ranks): nodes numbered by their lowest rank.
std::vector<int> find_nodes(MPI_Comm comm, int rank, int ranks) {
  MPI_Comm node = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node));
  int lowest = rank;
  MPI_CHECK(MPI_Bcast(&lowest, 1, MPI_INT, 0, node));
  MPI_CHECK(MPI_Comm_free(&node));
  std::vector<int> lowest_of_rank(static_cast<std::size_t>(ranks));
  MPI_CHECK(MPI_Allgather(&lowest, 1, MPI_INT, lowest_of_rank.data(), 1, MPI_INT, comm));

  std::map<int, int> number;
  for (const int r : lowest_of_rank) number.emplace(r, 0);
  int next = 0;
  for (auto& [r, n] : number) n = next++;
  std::vector<int> node_of_rank(lowest_of_rank);
  for (int& n : node_of_rank) n = number[n];
  return node_of_rank;
}

[[noreturn]] void abort_job(int exit_code) noexcept {
  constexpr unsigned kPatience = 10;  // seconds for MPI to end the other ranks before this one dies by a signal
  std::fflush(nullptr);
  std::cout.flush();
  ::signal(SIGALRM, SIG_DFL);
  ::alarm(kPatience);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

/// Ends the process when MPI takes longer than that to end: it has no time limit of its own, and a rank may stop in it.
void limit_the_end(std::chrono::duration<double> limit) noexcept {
  static char text[96];
  static int length = 0;
  length =
      std::snprintf(text, sizeof text, "timed out after %g s at MPI_Finalize: some rank does not end\n", limit.count());
  ::signal(SIGALRM, [](int) {
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, static_cast<std::size_t>(length));
    std::_Exit(3);
  });
  ::alarm(static_cast<unsigned>(std::ceil(std::min(limit.count(), 1e9))));
}

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) : job_(std::make_unique<Job>()) {
  int provided = MPI_THREAD_SINGLE;
  MPI_CHECK(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided));
  MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &job_->comm));
  MPI_CHECK(MPI_Comm_rank(job_->comm, &job_->rank));
  MPI_CHECK(MPI_Comm_size(job_->comm, &job_->ranks));
  job_->node_of_rank = find_nodes(job_->comm, job_->rank, job_->ranks);
  if (job_->ranks > 1) job_->roll_call = std::make_unique<RollCall>(job_->comm, kRollCallTag);
  job_->exceptions = std::uncaught_exceptions();
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > job_->exceptions) {
    // The other ranks may stand anywhere, so MPI can't be ended in good order. main() shall still report what happened.
    (void)job_.release();
    std::atexit([] { abort_job(3); });
    return;
  }
  if (job_->ranks > 1) {
    try {
      const bool limited = job_->longest_timeout.count() > 0;
      CommOptions options;
      if (limited) options.timeout = job_->longest_timeout;
      (void)make_mpi_communicator(*this, options)->all_gather({}, {"the end of the job"});
      if (limited) limit_the_end(options.timeout);
    } catch (const std::exception& e) {
      std::cerr << "[rank " << rank() << "] " << e.what() << std::endl;
      abort(3);
    }
  }
  job_->roll_call.reset();
  MPI_Comm_free(&job_->comm);
  MPI_Finalize();
  ::alarm(0);
}

int MpiSession::rank() const noexcept {
  return job_->rank;
}

int MpiSession::ranks() const noexcept {
  return job_->ranks;
}

void MpiSession::abort(int exit_code) noexcept {
  abort_job(exit_code);
}

}  // namespace coterie
