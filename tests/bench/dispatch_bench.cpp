// How long planning a layer's dispatch takes, and what it saves: dispatch_bench [TRACE...]
// 64 ranks in nodes of 8, 256 experts, 8 of them a token, 16,384 tokens a rank: the loads of LLEP's tables, some random
// ones, and those of the traces given (each of their layers, tokens dealt to the ranks in turn; as many ranks as divide
// their experts). Every call has other counts than the one before. One core, microseconds; predicted milliseconds.
#include "placement/dispatch/plan_dispatch.hpp"
#include "placement/splitmix.hpp"
#include "placement/trace/trace.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace coterie {
namespace {

constexpr int kRepeats = 40;  // of each input

struct Load {
  std::string name;
  DispatchLayer layer;
  std::vector<std::vector<std::int32_t>> counts;  ///< (inputs, (ranks, experts))
};

// One H200 in a node with NVLink, 50 GB/s a rank between nodes; DeepSeek-V3's experts in bf16.
Machine machine() {
  Machine m;
  m.inside_node = {5e-6, 4e11};
  m.between_nodes = Link{1e-5, 5e10};
  m.gemm = {{16, 1.5e13}, {16'384, 6e14}};
  return m;
}

DispatchLayer layer_of(int ranks, int experts) {
  std::vector<int> nodes(ranks), destinations(static_cast<std::size_t>(ranks) * experts);
  std::vector<std::uint8_t> held(destinations.size(), 0);
  for (int r = 0; r < ranks; ++r) nodes[r] = r / 8;
  for (int e = 0; e < experts; ++e) {
    const int owner = static_cast<int>(std::int64_t{e} * ranks / experts);
    held[static_cast<std::size_t>(e) * ranks + owner] = 1;
    for (int r = 0; r < ranks; ++r) destinations[static_cast<std::size_t>(r) * experts + e] = owner;
  }
  return {nodes, destinations, held};
}

/// Rows of every rank by the weight of each expert, each count off by some per cent at random.
Load generated(const std::string& name, const std::function<double(int expert)>& weight) {
  constexpr int kRanks = 64, kExperts = 256, kInputs = 32;
  constexpr double kRows = 16'384 * 8;
  SplitMix random(1);
  Load load{name, layer_of(kRanks, kExperts), {}};
  double sum = 0;
  for (int e = 0; e < kExperts; ++e) sum += weight(e);
  for (int i = 0; i < kInputs; ++i) {
    std::vector<std::int32_t>& counts = load.counts.emplace_back();
    for (int r = 0; r < kRanks; ++r) {
      for (int e = 0; e < kExperts; ++e) {
        const double noise = 0.95 + 0.1 * static_cast<double>(random.unit());
        counts.push_back(static_cast<std::int32_t>(kRows * weight(e) / sum * noise));
      }
    }
  }
  return load;
}

std::vector<Load> generated_loads() {
  std::vector<Load> loads{generated("balanced", [](int) { return 1.0; })};
  loads.push_back(generated("3 ranks with half more", [](int e) { return e % 88 < 4 ? 1.5 : 1.0; }));
  for (const int hot : {1, 4, 16}) {
    for (const int percent : {30, 50, 80, 95}) {
      loads.push_back(generated(std::to_string(percent) + " % in " + std::to_string(hot), [=](int e) {
        const double share = percent / 100.0;
        return e % (256 / hot) == 0 ? share / hot : (1 - share) / (256 - hot);
      }));
    }
  }
  for (const double skew : {0.3, 0.7, 1.1}) {
    loads.push_back(generated("power " + std::to_string(skew).substr(0, 3),
                              [=](int e) { return std::pow(1 + (e * 37) % 256, -skew); }));
  }
  return loads;
}

Load from_trace(const std::string& path) {
  const Trace trace = read_trace(path);
  int ranks = 64;
  while (trace.num_experts % ranks != 0) ranks /= 2;
  Load load{path.substr(path.rfind('/') + 1), layer_of(ranks, trace.num_experts), {}};
  const std::int64_t repeat = std::max<std::int64_t>(1, std::int64_t{16'384} * ranks / trace.tokens());
  for (int layer = 0; layer < trace.layers(); ++layer) {
    std::vector<std::int32_t>& counts =
        load.counts.emplace_back(static_cast<std::size_t>(ranks) * trace.num_experts, 0);
    for (std::int64_t t = 0; t < trace.tokens(); ++t) {
      for (int k = 0; k < trace.top_k; ++k) {
        const auto e = trace.experts[static_cast<std::size_t>((t * trace.layers() + layer) * trace.top_k + k)];
        if (e != Trace::kNoExpert)
          counts[static_cast<std::size_t>(t % ranks) * trace.num_experts + e] += static_cast<std::int32_t>(repeat);
      }
    }
  }
  return load;
}

struct Measured {
  double median = 0, worst_input = 0;  ///< microseconds; the slowest input's median
  double before = 0, after = 0;        ///< predicted milliseconds, mean over the inputs
  double transfers = 0;                ///< mean
};

Measured measure(const Load& load, DispatchPolicy policy) {
  using Clock = std::chrono::steady_clock;
  DispatchOptions options;
  options.policy = policy;
  DispatchPlanner planner(dispatch_costs(machine(), 7168, 2048, std::int64_t{6} * 7168 * 2048, std::int64_t{4} * 7168),
                          options);
  std::vector<std::vector<double>> times(load.counts.size());
  Measured m;
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {
    for (std::size_t i = 0; i < load.counts.size(); ++i) {
      const auto start = Clock::now();
      const DispatchPlan& plan = planner.plan(load.layer, load.counts[i]);
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (repeat > 0) {  // the first is for the allocations
        times[i].push_back(seconds * 1e6);
        continue;
      }
      const auto inputs = static_cast<double>(load.counts.size());
      m.before += static_cast<double>(plan.before) * 1e-9 / inputs;
      m.after += static_cast<double>(plan.after) * 1e-9 / inputs;
      m.transfers += static_cast<double>(plan.transfers.size()) / inputs;
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& of : times) {
    std::nth_element(of.begin(), of.begin() + kRepeats / 2, of.end());
    medians.push_back(of[kRepeats / 2]);
  }
  std::sort(medians.begin(), medians.end());
  m.median = medians[medians.size() / 2];
  m.worst_input = medians.back();
  return m;
}

void report(const Load& load) {
  const Measured ours = measure(load, DispatchPolicy::least_loaded), theirs = measure(load, DispatchPolicy::llep);
  std::printf("%-28s %8.1f %8.1f %8.1f   %8.3f %8.3f %8.3f   %6.1f %6.1f\n", load.name.substr(0, 28).c_str(),
              ours.median, ours.worst_input, theirs.median, ours.before, ours.after, theirs.after, ours.transfers,
              theirs.transfers);
}

void run(int argc, char** argv) {
  std::printf("%-28s %8s %8s %8s   %8s %8s %8s   %6s %6s\n%-28s %26s   %26s   %13s\n", "load", "least", "worst", "llep",
              "plain", "least", "llep", "least", "llep", "", "us a call", "predicted ms", "transfers");
  for (const Load& load : generated_loads()) report(load);
  for (int i = 1; i < argc; ++i) report(from_trace(argv[i]));
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  try {
    coterie::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
