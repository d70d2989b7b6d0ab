// How long planning a layer's dispatch takes, and what it saves: dispatch_bench [--load TEXT] [TRACE...]
// 64 ranks in nodes of 8, 256 experts, 8 of them a token, 16,384 tokens a rank: the loads of LLEP's tables, some random
// ones, and those of the traces given, whole and cut into batches of 1,024 tokens (of each layer some; tokens dealt to
// the ranks in turn and repeated up to 16,384 a rank; as many ranks as divide the experts). --load takes those alone
// whose names have TEXT in them. dispatch_bench --worst LOADS [SEED [TEXT]] looks for the slowest of so many random
// ones, dealt to random layers and machines (random_dispatch.hpp) in turn, or of the settings alone whose names have
// TEXT in them. Every call has other counts than the one before.
// One core, microseconds; predicted milliseconds; rows computed elsewhere than the placement says in per cent of all.
#include "placement/dispatch/plan_dispatch.hpp"
#include "placement/splitmix.hpp"
#include "placement/trace/trace.hpp"
#include "tests/bench/random_dispatch.hpp"

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

constexpr int kRepeats = 40;              // of each input
constexpr std::int64_t kTokens = 16'384;  // of a rank
constexpr std::int64_t kBatch = 1024;     // tokens that a trace is cut into
constexpr std::size_t kMostInputs = 64;   // of a load

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
  constexpr double kRows = kTokens * 8;
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
  loads.push_back(generated("1 rank with twice as much", [](int e) { return e < 4 ? 2.0 : 1.0; }));
  loads.push_back(generated("6 ranks with a fifth more", [](int e) { return e % 44 < 4 ? 1.2 : 1.0; }));
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

/// Tokens [begin, begin + count) of a layer.
std::vector<std::int32_t> counts_of(const Trace& trace, int layer, std::int64_t begin, std::int64_t count, int ranks) {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(ranks) * trace.num_experts, 0);
  const std::int64_t repeat = std::max<std::int64_t>(1, kTokens * ranks / count);
  for (std::int64_t t = begin; t < begin + count; ++t) {
    for (int k = 0; k < trace.top_k; ++k) {
      const auto e = trace.experts[static_cast<std::size_t>((t * trace.layers() + layer) * trace.top_k + k)];
      if (e == Trace::kNoExpert) continue;
      counts[static_cast<std::size_t>(t % ranks) * trace.num_experts + e] += static_cast<std::int32_t>(repeat);
    }
  }
  return counts;
}

std::vector<Load> from_trace(const std::string& path) {
  const Trace trace = read_trace(path);
  int ranks = 64;
  while (trace.num_experts % ranks != 0) ranks /= 2;
  const std::string file = path.substr(path.rfind('/') + 1), name = file.substr(0, file.rfind(".safetensors"));
  const DispatchLayer layer = layer_of(ranks, trace.num_experts);
  Load whole{name, layer, {}}, batches{name + ", batches", layer, {}};
  for (int l = 0; l < trace.layers(); ++l) {
    whole.counts.push_back(counts_of(trace, l, 0, trace.tokens(), ranks));
  }
  const std::int64_t in_all = trace.tokens() / kBatch * trace.layers();
  const auto inputs = std::min<std::int64_t>(in_all, kMostInputs);
  for (std::int64_t i = 0; i < inputs; ++i) {
    const std::int64_t at = i * in_all / inputs;
    const auto l = static_cast<int>(at % trace.layers());
    batches.counts.push_back(counts_of(trace, l, at / trace.layers() * kBatch, kBatch, ranks));
  }
  return {std::move(whole), std::move(batches)};
}

/// Of all rows, those that another rank computes than the placement says.
double moved_share(const DispatchLayer& layer, const std::vector<std::int32_t>& counts, const DispatchPlan& plan) {
  std::int64_t moved = 0, all = 0;
  for (const DispatchPart& part : plan.parts) {
    std::int64_t begin = 0;
    for (int r = 0; r < layer.ranks; ++r) {
      const std::size_t at = static_cast<std::size_t>(r) * layer.experts + part.expert;
      const std::int64_t end = begin + counts[at];
      const std::int64_t rows = std::max<std::int64_t>(0, std::min(end, part.to) - std::max(begin, part.from));
      all += rows;
      if (layer.destinations[at] != part.rank) moved += rows;
      begin = end;
    }
  }
  return all == 0 ? 0 : static_cast<double>(moved) / static_cast<double>(all);
}

struct Measured {
  double median = 0, worst_input = 0;  ///< microseconds; the slowest input's median
  double before = 0, after = 0;        ///< predicted milliseconds, mean over the inputs
  double transfers = 0, moved = 0;     ///< means; share of all rows
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
      m.moved += moved_share(load.layer, load.counts[i], plan) / inputs;
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
  std::printf("%-34s %7.1f %7.1f %7.1f   %8.3f %8.3f %8.3f   %6.1f %6.1f   %5.1f %5.1f\n",
              load.name.substr(0, 34).c_str(), ours.median, ours.worst_input, theirs.median, ours.before, ours.after,
              theirs.after, ours.transfers, theirs.transfers, 100 * ours.moved, 100 * theirs.moved);
  std::fflush(stdout);
}

struct Slowest {
  double us = 0;
  std::uint64_t seed = 0;
  std::string load;
};

/// Of each setting's loads how long planning takes, without the first call, and the mean of predicted times over
/// plain's; of what seems the slowest the least of some calls.
void report_worst(int loads, std::uint64_t seed, const std::string& wanted) {
  using Clock = std::chrono::steady_clock;
  constexpr int kSettings = 100, kAgain = 7;
  std::printf("%-72s %7s %7s %7s %7s %7s   %s\n%-72s %31s %7s\n", "setting", "median", "99 %", "99.9 %", "worst",
              "least", "worst load", "", "us a call", "/ plain");
  std::vector<double> all;
  double all_logs = 0;
  Slowest slowest;
  std::vector<std::int32_t> counts;
  const auto print = [](const std::string& name, std::vector<double>& of, const Slowest& worst, double sum) {
    std::sort(of.begin(), of.end());
    std::printf("%-72s %7.1f %7.1f %7.1f %7.1f %7.4f   %s, seed %llu\n", name.c_str(), of[of.size() / 2],
                of[of.size() * 99 / 100], of[of.size() * 999 / 1000], worst.us,
                std::exp(sum / static_cast<double>(of.size())), worst.load.c_str(),
                static_cast<unsigned long long>(worst.seed));
    std::fflush(stdout);
  };
  for (std::uint64_t s = seed; s < seed + kSettings; ++s) {
    const RandomSetting setting = random_setting(s);
    if (setting.name.find(wanted) == std::string::npos) continue;
    DispatchPlanner planner(setting.costs, {});
    double left = 1;
    const auto call = [&] {
      const auto start = Clock::now();
      const DispatchPlan& plan = planner.plan(setting.layer, counts, setting.cached);
      left = plan.before == 0 ? 1 : static_cast<double>(plan.after) / static_cast<double>(plan.before);
      return std::chrono::duration<double>(Clock::now() - start).count() * 1e6;
    };
    std::vector<double> times;
    Slowest here;
    double logs = 0;  // of predicted times over plain's
    for (int i = 0; i < loads / kSettings; ++i) {
      const std::uint64_t of_load = SplitMix(s * 1'000'003 + static_cast<std::uint64_t>(i)).next();
      const char* kind = random_load(of_load, setting.layer, counts);
      if (i == 0) static_cast<void>(call());
      double us = call();
      if (us > here.us) {
        for (int again = 0; again < kAgain; ++again) us = std::min(us, call());
      }
      times.push_back(us);
      logs += std::log(left);
      if (us > here.us) here = {us, of_load, kind};
    }
    all.insert(all.end(), times.begin(), times.end());
    print(setting.name, times, here, logs);
    all_logs += logs;
    if (here.us > slowest.us) slowest = here;
  }
  if (!all.empty()) print("all", all, slowest, all_logs);
}

void run(int argc, char** argv) {
  if (argc > 2 && std::string(argv[1]) == "--worst") {
    return report_worst(std::max(100, std::stoi(argv[2])), argc > 3 ? std::stoull(argv[3]) : 1,
                        argc > 4 ? argv[4] : "");
  }
  const bool some = argc > 2 && std::string(argv[1]) == "--load";
  const std::string wanted = some ? argv[2] : "";
  std::printf("%-34s %7s %7s %7s   %8s %8s %8s   %6s %6s   %5s %5s\n%-34s %23s   %26s   %13s   %11s\n", "load", "least",
              "worst", "llep", "plain", "least", "llep", "least", "llep", "least", "llep", "", "us a call",
              "predicted ms", "transfers", "% moved");
  const auto report_wanted = [&](const std::vector<Load>& loads) {
    for (const Load& load : loads) {
      if (!load.counts.empty() && load.name.find(wanted) != std::string::npos) report(load);
    }
  };
  report_wanted(generated_loads());
  for (int i = some ? 3 : 1; i < argc; ++i) report_wanted(from_trace(argv[i]));
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
