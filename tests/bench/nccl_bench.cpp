// Times exchanges between GPUs through NCCL beside the same through MPI and the hosts' memory, interleaved in one run.
// usage: mpirun -n P nccl_bench [batches]; each rank takes the GPU of its number on its host.
#include "comm/nccl.hpp"
#include "kernels/cuda_devices.hpp"
#include "runtime/engine/device_messages.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace coterie {
namespace {

/// Seconds of one exchange in which every rank sends `bytes` to each other one, on this rank.
double time_of(Communicator& comm, std::size_t bytes, int calls) {
  (void)comm.all_gather({}, {"bench"});
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) {
    Outbox outbox(static_cast<std::size_t>(comm.ranks()));
    for (int r = 0; r < comm.ranks(); ++r) {
      if (r != comm.rank() && bytes > 0) outbox[r] = Message(sizes_of({{Bulk::rows, bytes}}));
    }
    (void)comm.exchange(std::move(outbox), {"bench"});
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

double quantile(std::vector<double> values, double q) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1))];
}

void bench(Communicator& nccl, Communicator& mpi, std::size_t bytes, int batches) {
  const int calls = bytes <= (64 << 10) ? 100 : 10;
  std::vector<double> over_nccl, over_mpi;
  for (int batch = -1; batch < batches; ++batch) {
    const double n = time_of(nccl, bytes, calls), m = time_of(mpi, bytes, calls);
    if (batch < 0) continue;  // warm-up
    over_nccl.push_back(n), over_mpi.push_back(m);
  }
  if (nccl.rank() != 0) return;
  const double median = quantile(over_nccl, 0.5);
  std::printf("%9zu %10.1f %8.1f..%-8.1f %8.2f %10.1f %8.2f\n", bytes, 1e6 * median, 1e6 * quantile(over_nccl, 0.1),
              1e6 * quantile(over_nccl, 0.9), 1e-9 * static_cast<double>(bytes) * (nccl.ranks() - 1) / median,
              1e6 * quantile(over_mpi, 0.5), quantile(over_mpi, 0.5) / median);
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  coterie::MpiSession session(argc, argv);
  const auto mpi = coterie::make_mpi_communicator(session, {});
  const auto nodes = mpi->node_of_rank();
  const auto gpu = static_cast<int>(std::count(nodes.begin(), nodes.begin() + mpi->rank(), nodes[mpi->rank()]));
  const auto device = coterie::make_cuda_device({}, gpu);
  const coterie::DeviceMessages messages(*device);
  const auto nccl = coterie::make_nccl_communicator(session, {{}, gpu, false});
  if (mpi->rank() == 0) {
    std::printf(
        "%d ranks; microseconds a call on rank 0, median over batches (NCCL: 10 %%..90 %%)\n%9s %10s %18s %8s %10s "
        "%8s\n",
        mpi->ranks(), "bytes/pair", "NCCL", "", "GB/s/rank", "MPI", "MPI/NCCL");
  }
  for (const std::size_t bytes : {0U, 256U, 2048U, 16384U, 65536U, 262144U, 1048576U, 4194304U, 16777216U, 67108864U}) {
    coterie::bench(*nccl, *mpi, bytes, argc > 1 ? std::atoi(argv[1]) : 15);
  }
}
