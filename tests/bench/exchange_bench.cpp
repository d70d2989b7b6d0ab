// Times the exchange beside what MPI offers for it, interleaved in one run: MPI_Alltoallv when every rank knows all
// sizes beforehand, and MPI_Alltoall of the sizes followed by MPI_Alltoallv when it doesn't, which is the exchange's
// task. usage: mpirun -n P exchange_bench [batches]
#include "comm/communicator.hpp"
#include "comm/mpi_check.hpp"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <utility>
#include <vector>

namespace coterie {
namespace {

using Seconds = std::chrono::duration<double>;

/// The same rows to every other rank, through MPI's own collectives.
class PlainMpi {
 public:
  PlainMpi(int ranks, std::size_t bytes) : bytes_(static_cast<int>(bytes)), counts_(ranks, bytes_), from_(ranks, 0) {
    for (int r = 0; r < ranks; ++r) offsets_.push_back(r * bytes_);
    out_.resize(ranks * bytes, std::byte{1});
    in_.resize(ranks * bytes);
  }
  void known_sizes() {
    MPI_CHECK(MPI_Alltoallv(out_.data(), counts_.data(), offsets_.data(), MPI_BYTE, in_.data(), counts_.data(),
                            offsets_.data(), MPI_BYTE, MPI_COMM_WORLD));
  }
  void unknown_sizes() {
    MPI_CHECK(MPI_Alltoall(counts_.data(), 1, MPI_INT, from_.data(), 1, MPI_INT, MPI_COMM_WORLD));
    std::vector<int> offsets;
    int total = 0;
    for (const int count : from_) offsets.push_back(std::exchange(total, total + count));
    std::vector<std::byte> in(total);
    MPI_CHECK(MPI_Alltoallv(out_.data(), counts_.data(), offsets_.data(), MPI_BYTE, in.data(), from_.data(),
                            offsets.data(), MPI_BYTE, MPI_COMM_WORLD));
  }

 private:
  int bytes_;
  std::vector<int> counts_, from_, offsets_;
  std::vector<std::byte> out_, in_;
};

/// The time of one call on the slowest rank, in seconds.
double time_of(int calls, const std::function<void()>& call) {
  MPI_CHECK(MPI_Barrier(MPI_COMM_WORLD));
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) call();
  double seconds = Seconds(std::chrono::steady_clock::now() - start).count() / calls;
  MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD));
  return seconds;
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1))];
}

void bench(Communicator& comm, std::size_t bytes, int batches) {
  PlainMpi mpi(comm.ranks(), bytes);
  const auto exchange = [&] {
    Outbox outbox(comm.ranks());
    for (int r = 0; r < comm.ranks(); ++r) {
      if (r != comm.rank() && bytes > 0) outbox[r] = Message(sizes_of({{Bulk::rows, bytes}}));
    }
    (void)comm.exchange(std::move(outbox), {"bench"});
  };
  const int calls = bytes <= (64 << 10) ? 100 : 10;
  std::vector<double> ours, known, unknown;
  for (int batch = -1; batch < batches; ++batch) {
    const double o = time_of(calls, exchange);
    const double k = time_of(calls, [&] { mpi.known_sizes(); });
    const double u = time_of(calls, [&] { mpi.unknown_sizes(); });
    if (batch < 0) continue;  // warm-up
    ours.push_back(o), known.push_back(k), unknown.push_back(u);
  }
  if (comm.rank() != 0) return;
  const double median = quantile(ours, 0.5);
  std::printf("%9zu %10.1f %8.1f..%-8.1f %8.2f %12.1f %12.1f %8.2f %8.2f\n", bytes, 1e6 * median,
              1e6 * quantile(ours, 0.1), 1e6 * quantile(ours, 0.9),
              1e-9 * static_cast<double>(bytes) * (comm.ranks() - 1) / median, 1e6 * quantile(known, 0.5),
              1e6 * quantile(unknown, 0.5), median / quantile(known, 0.5), median / quantile(unknown, 0.5));
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  coterie::MpiSession session(argc, argv);
  const auto comm = coterie::make_mpi_communicator(session, {});
  if (comm->rank() == 0) {
    std::printf(
        "%d ranks; microseconds a call on the slowest rank, median over batches (exchange: 10 %%..90 %%)\n"
        "%9s %10s %18s %8s %12s %12s %8s %8s\n",
        comm->ranks(), "bytes/pair", "exchange", "", "GB/s/rank", "known sizes", "unknown", "/known", "/unknown");
  }
  for (const std::size_t bytes : {0U, 256U, 2048U, 8192U, 16384U, 65536U, 262144U, 1048576U, 4194304U}) {
    coterie::bench(*comm, bytes, argc > 1 ? std::atoi(argv[1]) : 15);
  }
}
