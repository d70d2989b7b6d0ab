// Times what an exchange between GPUs takes from rows on a device to rows on another: packing, exchange, unpacking;
// over NCCL, where messages stay in the GPUs' memory, by its groups and, where they reach one another, by the GPUs
// alone
// (--low-latency), beside MPI and the hosts' memory, interleaved in one run. Packing
// and unpacking alone are set beside the rate at which the device copies. usage: mpirun -n P nccl_bench [batches]; each
// rank takes the GPU of its number on its host.
#include "comm/nccl.hpp"
#include "kernels/cuda_devices.hpp"
#include "runtime/engine/device_messages.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

namespace coterie {
namespace {

constexpr std::int64_t kHidden = 4096;
constexpr std::int64_t kMostRows = 4096;
constexpr int kWarmUp = 5;  // calls: memory for messages, and what NCCL expects of their sizes

/// Seconds of a call on this rank. Collective.
double time_of(Communicator& comm, Device& device, int calls, const std::function<void()>& call) {
  const DeviceMessages messages(device, comm);
  for (int i = 0; i < kWarmUp; ++i) call();
  device.wait();
  (void)comm.all_gather({}, {"bench"});
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) call();
  device.wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

double quantile(std::vector<double> values, double q) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1))];
}

class Bench {
 public:
  /// `alone`: by the GPUs alone; may be null.
  Bench(Communicator& nccl, Communicator* alone, Communicator& mpi, Device& device, int batches)
      : nccl_(nccl),
        alone_(alone),
        mpi_(mpi),
        device_(device),
        batches_(batches),
        x_(device.allocate(kMostRows, kHidden, memory_)),
        out_(device.allocate(kMostRows, kHidden, out_memory_)),
        shuffled_(kMostRows),
        in_order_(kMostRows) {
    device.upload(std::vector<float>(kMostRows * kHidden, 1), x_);
    std::iota(in_order_.begin(), in_order_.end(), 0);
    std::iota(shuffled_.begin(), shuffled_.end(), 0);
    std::ranges::shuffle(shuffled_, std::mt19937(1));
    const std::size_t bytes = kMostRows * kHidden * size_of(x_.type);
    const double seconds = time_of(nccl, device, 20, [&] { device.copy({x_.data, bytes}, {out_.data, bytes}); });
    copy_ = 2 * static_cast<double>(bytes) / seconds;
    if (nccl.rank() == 0) std::printf("a copy on the device: %.0f GB/s, read and written\n", 1e-9 * copy_);
  }

  void rows(std::int64_t rows) {
    const auto whole = [&](Communicator& comm) {
      Inbox inbox = comm.exchange(packed(rows), {"bench"});
      unpack(inbox);
    };
    const auto on_device = [&] {
      Inbox own = packed(rows);
      unpack(own);
    };
    const int calls = rows <= 16 ? 100 : 10;
    std::vector<double> over_nccl, over_mpi, alone, by_gpus;
    for (int batch = 0; batch < batches_; ++batch) {
      over_nccl.push_back(time_of(nccl_, device_, calls, [&] { whole(nccl_); }));
      if (alone_ != nullptr) by_gpus.push_back(time_of(*alone_, device_, calls, [&] { whole(*alone_); }));
      over_mpi.push_back(time_of(mpi_, device_, calls, [&] { whole(mpi_); }));
      alone.push_back(time_of(nccl_, device_, calls, on_device));
    }
    if (nccl_.rank() != 0) return;
    const double bytes =
        static_cast<double>(rows * (nccl_.ranks() - 1)) * kHidden * static_cast<double>(size_of(x_.type));
    const double median = quantile(over_nccl, 0.5), by_mpi = quantile(over_mpi, 0.5);
    std::printf("%9ld %10.1f %8.1f..%-8.1f %8.2f %10.1f %8.2f %12.0f", static_cast<long>(rows), 1e6 * median,
                1e6 * quantile(over_nccl, 0.1), 1e6 * quantile(over_nccl, 0.9), 1e-9 * bytes / median, 1e6 * by_mpi,
                by_mpi / median, 100 * 4 * bytes / quantile(alone, 0.5) / copy_);
    if (alone_ != nullptr) {
      const double fast = quantile(by_gpus, 0.5);
      std::printf(" %10.1f %8.1f..%-8.1f %8.2f", 1e6 * fast, 1e6 * quantile(by_gpus, 0.1), 1e6 * quantile(by_gpus, 0.9),
                  median / fast);
    }
    std::printf("\n");
  }

 private:
  [[nodiscard]] Tensor rows_in(Message& message) const {
    const DeviceBytes section = message.section(Bulk::rows);
    const auto rows = static_cast<std::int64_t>(section.size() / (kHidden * size_of(x_.type)));
    return {section.address(), x_.type, rows, kHidden, kHidden};
  }
  [[nodiscard]] Outbox packed(std::int64_t rows) const {
    Outbox outbox(static_cast<std::size_t>(nccl_.ranks()));
    const auto bytes = static_cast<std::uint64_t>(rows * kHidden) * size_of(x_.type);
    for (int r = 0; r < nccl_.ranks() && rows > 0; ++r) {
      if (r == nccl_.rank()) continue;
      outbox[r] = Message(sizes_of({{Bulk::rows, bytes}}));
      device_.gather(x_, std::span(shuffled_).first(static_cast<std::size_t>(rows)), rows_in(outbox[r]));
    }
    return outbox;
  }
  void unpack(Inbox& inbox) const {
    for (Message& message : inbox) {
      const Tensor came = rows_in(message);
      if (came.rows == 0) continue;
      device_.gather(came, std::span(in_order_).first(static_cast<std::size_t>(came.rows)),
                     out_.row_range(0, came.rows));
    }
  }

  Communicator& nccl_;
  Communicator* alone_;
  Communicator& mpi_;
  Device& device_;
  int batches_;
  DeviceMemory memory_, out_memory_;
  Tensor x_, out_;
  std::vector<std::int32_t> shuffled_, in_order_;
  double copy_ = 0;  ///< bytes per second, read and written
};

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  using coterie::DType;
  coterie::MpiSession session(argc, argv);
  const auto mpi = coterie::make_mpi_communicator(session, {});
  const auto nodes = mpi->node_of_rank();
  const auto gpu = static_cast<int>(std::count(nodes.begin(), nodes.begin() + mpi->rank(), nodes[mpi->rank()]));
  const auto nccl = coterie::make_nccl_communicator(session, {{}, gpu, false});
  coterie::LowLatencyFound found;
  const auto alone = coterie::make_nccl_communicator(session, {{}, gpu, false, coterie::LowLatency::on}, &found);
  const auto device = coterie::make_cuda_device({DType::bf16, 1, DType::bf16}, gpu);
  device->reserve(std::size_t{4} << 30, std::size_t{4} << 30);
  coterie::Bench bench(*nccl, found.used ? alone.get() : nullptr, *mpi, *device, argc > 1 ? std::atoi(argv[1]) : 15);
  if (mpi->rank() == 0) {
    std::printf(
        "%d ranks, rows of %ld bf16 numbers; microseconds from rows to rows on rank 0, median over batches (NCCL: 10 "
        "%%..90 %%); packing and unpacking alone, in %% of a copy\n%9s %10s %18s %8s %10s %8s %12s %10s %18s %8s\n",
        mpi->ranks(), static_cast<long>(coterie::kHidden), "rows/pair", "NCCL", "", "GB/s/rank", "MPI", "MPI/NCCL",
        "% of a copy", found.used ? "GPUs alone" : "", "", found.used ? "NCCL/it" : "");
    if (!found.used) std::printf("without the GPUs alone: %s\n", found.trouble.c_str());
  }
  for (const std::int64_t rows : {0, 1, 4, 16, 64, 256, 1024, 4096}) bench.rows(rows);
}
