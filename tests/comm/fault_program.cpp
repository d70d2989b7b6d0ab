// A program in which something goes wrong on rank 1, for fault_test: it ends as main() of the project's program does.
// usage: fault_program stops|dies|throws|never_ends|stops_in_finalize|throws_out_of_the_session
#include "comm/communicator.hpp"

#include <mpi.h>
#include <signal.h>

#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

namespace coterie {
namespace {

constexpr CommOptions kOptions{.timeout = std::chrono::milliseconds(500)};
constexpr CommOptions kPatient{.timeout = std::chrono::hours(1)};

/// MPI_Finalize begins with the attributes of MPI_COMM_SELF.
void stop_in_finalize() {
  int key = MPI_KEYVAL_INVALID;
  const auto stop = [](MPI_Comm, int, void*, void*) { return ::raise(SIGSTOP); };
  MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, stop, &key, nullptr);
  MPI_Comm_set_attr(MPI_COMM_SELF, key, nullptr);
}

void work(MpiSession& session, const std::string& fault) {
  const bool faulty = session.rank() == 1;
  const auto comm = make_mpi_communicator(session, fault.starts_with("throws") ? kPatient : kOptions);
  for (int layer = 0; layer < 3; ++layer) {
    (void)comm->exchange(Outbox(comm->ranks()), {"dispatch", layer, 17});
    if (faulty && layer == 1 && fault == "stops") ::raise(SIGSTOP);
    if (faulty && layer == 1 && fault == "dies") ::raise(SIGKILL);
    if (faulty && layer == 1 && fault.starts_with("throws")) throw std::runtime_error("the disk is full");
    (void)comm->exchange(Outbox(comm->ranks()), {"combine", layer, 17});
  }
  if (faulty && fault == "never_ends") ::raise(SIGSTOP);
  if (faulty && fault == "stops_in_finalize") stop_in_finalize();
}

/// The session is destroyed by the exception.
int run_unguarded(int argc, char** argv) {
  try {
    MpiSession session(argc, argv);
    work(session, argv[1]);
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "caught outside: " << e.what() << std::endl;
    return 3;
  }
}

int run(int argc, char** argv) {
  MpiSession session(argc, argv);
  try {
    work(session, argv[1]);
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "[rank " + std::to_string(session.rank()) + "] " + e.what() + '\n' << std::flush;
    session.abort(3);
  }
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  return std::string(argv[1]) == "throws_out_of_the_session" ? coterie::run_unguarded(argc, argv)
                                                             : coterie::run(argc, argv);
}
