// How long reading a trace and counting its statistics takes, and how much memory: statistics_bench [FOLDER] [weights]
// Writes a synthetic trace of 10^6 tokens x 58 layers x 8 of 256 experts to FOLDER (default: the system's folder for
// temporary files; 0.9 GB, with `weights` 1.9 GB), measures, and removes it.
#include "placement/trace/statistics.hpp"
#include "placement/trace/trace.hpp"
#include "tests/bench/synthetic_trace.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <string>

namespace coterie {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double peak_gib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

void measure(const std::filesystem::path& path) {
  const auto start = std::chrono::steady_clock::now();
  const Trace trace = read_trace(path);
  const double read = seconds_since(start);
  const std::vector<WeightedTrace> traces{{&trace}};
  const Statistics statistics = count(traces, {.by_gate = !trace.weights.empty()});
  const double all = seconds_since(start);
  std::printf("%lld tokens x %d layers x %d of %d: read %.1f s, count %.1f s, together %.1f s; peak %.2f GiB\n",
              static_cast<long long>(trace.tokens()), trace.layers(), trace.top_k, trace.num_experts, read, all - read,
              all, peak_gib());
  std::printf("(weight between layers: %.0f)\n",
              std::accumulate(statistics.affinity.begin(), statistics.affinity.end(), 0.0));
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  const std::filesystem::path folder = argc > 1 ? argv[1] : std::filesystem::temp_directory_path();
  const bool weights = argc > 2 && std::string(argv[2]) == "weights";
  const auto path = folder / ("statistics_bench." + std::to_string(::getpid()) + ".safetensors");
  // In a process of its own, so that the peak that is printed is the reader's.
  const pid_t child = ::fork();
  if (child == 0) {
    coterie::write_synthetic_trace(path, {.weights = weights});
    std::_Exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (status == 0) coterie::measure(path);
  std::filesystem::remove(path);
  return status == 0 ? 0 : 1;
}
