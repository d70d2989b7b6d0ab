// Times loading a model on ranks: rank 0 alone, then all at the same time, each several times: the first time a virtual
// machine may have to be given its memory by its host.
// usage: mpirun -n P load_bench MODEL [f32|bf16]
#include "comm/mpi_check.hpp"
#include "placement/plan.hpp"
#include "runtime/engine/host_memory.hpp"
#include "runtime/families/family.hpp"
#include "runtime/layers/weights.hpp"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>

namespace coterie {
namespace {

/// Bytes of this process that are in memory and not a file's.
double anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  double kib = 0;
  while (status >> word) {
    if (word == "RssAnon:") status >> kib;
  }
  return kib * 1024;
}

double file_bytes(const std::filesystem::path& model) {
  double bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    if (entry.path().extension() == ".safetensors") bytes += static_cast<double>(entry.file_size());
  }
  return bytes;
}

/// A barrier whose waiting ranks leave the cores to the others.
void wait_for_all() {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_CHECK(MPI_Ibarrier(MPI_COMM_WORLD, &request));
  for (int done = 0; done == 0; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
    MPI_CHECK(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
  }
}

struct Bench {
  std::filesystem::path model;
  DType type;
  int rank;
  int ranks;

  double share = 0;  ///< what its weights take; later loads find memory that the process already has

  /// Loads this rank's share and drops it.
  void load(const char* how) {
    const auto start = std::chrono::steady_clock::now();
    const ModelSpec spec = read_model_spec(model);
    const Checkpoint checkpoint(model);
    const Topology topology{{ranks}};
    const Plan plan = contiguous_plan(spec.family, spec.moe_layer_ids(), spec.experts(), spec.top_k(), topology);
    const Ownership ownership(plan, rank, std::vector<int>(static_cast<std::size_t>(ranks)));
    const auto device = make_cpu_device({type, 1});
    const double before = anonymous_bytes();
    const Weights weights = load_weights(spec, checkpoint, ownership, *device, type);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    share = std::max(share, anonymous_bytes() - before);

    std::size_t held = 0;
    const int layers = static_cast<int>(spec.moe_layer_ids().size());
    for (int l = 0; l < layers; ++l) held += ownership.held(l).size();
    const double parameters =
        static_cast<double>(spec.dense_parameters()) +
        static_cast<double>(spec.expert_parameters()) * static_cast<double>(held) / (layers * spec.experts());
    const double bytes = parameters / static_cast<double>(spec.parameters()) * file_bytes(model);
    std::printf("rank %d %s: %.2f GB of files in %.2f s, %.2f GB/s; holds %.2f GB, peak so far %.2f GB (+%.1f %%)\n",
                rank, how, bytes / 1e9, seconds, bytes / seconds / 1e9, share / 1e9,
                static_cast<double>(peak_memory()) / 1e9, (static_cast<double>(peak_memory()) / share - 1) * 100);
    std::fflush(stdout);
  }
};

void run(const std::filesystem::path& model, DType type) {
  Bench bench{model, type, 0, 0, 0};
  MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &bench.rank));
  MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &bench.ranks));
  constexpr int times = 3;
  for (int i = 0; i < times && bench.rank == 0; ++i) bench.load("alone");
  for (int i = 0; i < times; ++i) {
    wait_for_all();
    bench.load("with the others");
  }
  wait_for_all();
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const std::string type = argc > 2 ? argv[2] : "f32";
  if (argc < 2 || (type != "f32" && type != "bf16")) {
    std::fprintf(stderr, "usage: mpirun -n P load_bench MODEL [f32|bf16]\n");
    MPI_Finalize();
    return 2;
  }
  coterie::run(argv[1], type == "f32" ? coterie::DType::f32 : coterie::DType::bf16);
  MPI_Finalize();
  return 0;
}
