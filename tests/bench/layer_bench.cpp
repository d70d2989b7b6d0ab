// One MoE layer under each dispatch policy, interleaved in one run, on LLEP's workloads (arXiv 2601.17111):
//   mpirun -n P layer_bench [--model NAME] [--scale S] [--tokens T] [--repeats N] [--backward] [--load TEXT]
//   mpirun -n P layer_bench --overlap ...
//   mpirun -n P layer_bench --peak POLICY --load TEXT ...
// Models by name, hidden and intermediate size and the tokens of LLEP's 8 ranks divided by the scale. A load is
// "balanced" or a share of all rows spread over the first 1, 4 or 16 experts, "95 % in 1", the rest over the others;
// --load picks one. Which row chose which expert is shuffled anew in each repeat; a row may choose one twice, else no
// expert could get more than 1/k of all. In each repeat another policy is the first; times are the slowest rank's
// medians. With --overlap it is least-loaded dispatch beside the same that waits for weights before it computes
// anything. With --peak a process runs one policy and tells its memory, for a peak is a process's.
#include "comm/wrapped_communicator.hpp"
#include "placement/splitmix.hpp"
#include "runtime/cost/calibration.hpp"
#include "runtime/experts/expert_layer.hpp"

#include <boost/program_options.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace coterie {
namespace {

struct Model {
  std::string name;
  int experts, top_k;
  std::int64_t hidden, intermediate, tokens;  ///< tokens of a rank, in the paper of one of kPaperRanks
};

constexpr int kPaperRanks = 8;

const std::vector<Model> models = {{"gpt-oss-120b", 128, 4, 2880, 2880, 32'768},
                                   {"deepseek-v3", 256, 8, 7168, 2048, 16'384},
                                   {"kimi-k2", 384, 8, 7168, 2048, 16'384}};

struct Load {
  std::string name;
  double share;
  int hot;  ///< experts
};

std::vector<Load> loads() {
  std::vector<Load> all{{"balanced", 0, 0}};
  for (const int hot : {1, 4, 16}) {
    for (const int percent : {30, 50, 80, 95}) {
      all.push_back({std::to_string(percent) + " % in " + std::to_string(hot), percent / 100.0, hot});
    }
  }
  return all;
}

struct Policy {
  std::string name;
  DispatchPolicy policy;
  bool overlaps = true;  ///< computes while weights are under way
};
using Policies = std::vector<Policy>;
const Policies all_policies = {
    {"plain", DispatchPolicy::plain}, {"llep", DispatchPolicy::llep}, {"least-loaded", DispatchPolicy::least_loaded}};
const Policies without_and_with_overlap = {{"least-loaded that waits", DispatchPolicy::least_loaded, false},
                                           {"least-loaded", DispatchPolicy::least_loaded}};

/// Can make rows wait for weights, as if all came in one piece.
class MayOverlap final : public WrappedCommunicator {
 public:
  using WrappedCommunicator::WrappedCommunicator;

  bool overlaps = true;

  [[nodiscard]] bool progress() override { return all_ || inner_.progress(); }
  [[nodiscard]] Inbox& wait_for_rows() override {
    if (overlaps) return inner_.wait_for_rows();
    if (!all_) all_ = inner_.finish();
    return *all_;
  }
  [[nodiscard]] Inbox finish() override {
    if (!all_) return inner_.finish();
    return *std::exchange(all_, {});
  }

 private:
  std::optional<Inbox> all_;
};

struct Options {
  std::string model, load, peak;
  std::int64_t scale = 8, tokens = 0;
  int repeats = 5;
  bool backward = false, overlap = false;

  [[nodiscard]] const Policies& policies() const { return overlap ? without_and_with_overlap : all_policies; }
};

std::vector<float> random_numbers(std::int64_t count, float size, std::uint64_t seed) {
  SplitMix random(seed);
  std::vector<float> numbers(static_cast<std::size_t>(count));
  for (float& x : numbers) x = size * static_cast<float>(2 * random.unit() - 1);
  return numbers;
}

DispatchLayer contiguous(int experts, std::span<const int> node_of_rank) {
  const auto ranks = static_cast<int>(node_of_rank.size());
  std::vector<int> destinations(static_cast<std::size_t>(experts) * ranks);
  std::vector<std::uint8_t> held(destinations.size(), 0);
  for (int e = 0; e < experts; ++e) {
    const int owner = e * ranks / experts;
    held[static_cast<std::size_t>(e) * ranks + owner] = 1;
    for (int r = 0; r < ranks; ++r) destinations[static_cast<std::size_t>(r) * experts + e] = owner;
  }
  return {{node_of_rank.begin(), node_of_rank.end()}, destinations, held};
}

/// Of every rank's value.
double largest(Communicator& comm, double mine) {
  double most = mine;
  for (const auto& bytes : comm.all_gather(std::as_bytes(std::span(&mine, 1)), {"bench"})) {
    double theirs = 0;
    std::memcpy(&theirs, bytes.data(), sizeof theirs);
    most = std::max(most, theirs);
  }
  return most;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size()) / 2, values.end());
  return values[values.size() / 2];
}

/// MiB of a field of /proc/self/status.
double memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string word;
  double kib = 0;
  while (status >> word) {
    if (word == field + ":") status >> kib;
  }
  return kib / 1024;
}

Tensor tensor(std::vector<float>& numbers, std::int64_t cols) {
  return {reinterpret_cast<std::byte*>(numbers.data()), DType::f32, static_cast<std::int64_t>(numbers.size()) / cols,
          cols, cols};
}

/// One core's, roughly: a peak is measured without calibration, whose messages would stay in memory.
Machine nominal_machine() {
  Machine machine;
  machine.inside_node = {1e-5, 5e9};
  machine.gemm = {{16, 5e10}, {256, 1e11}};
  return machine;
}

/// What one policy did with one load, by repeat.
struct Measured {
  std::vector<double> forward, backward;  ///< seconds, of the slowest rank
  double rows = 0;                        ///< pairs of a row and an expert that the fullest rank computed
  double guests = 0;                      ///< the most experts whose weights came to a rank
  double predicted = 0;                   ///< seconds
};

class Bench {
 public:
  Bench(const Model& model, const Options& options, Communicator& comm)
      : model_(model),
        options_(options),
        comm_(comm),
        layers_comm_(comm),
        x_(random_numbers(model.tokens * model.hidden, 1, 1 + comm.rank())),
        y_(x_.size()),
        dx_(options.backward ? x_.size() : 0),
        gates_(static_cast<std::size_t>(model.tokens * model.top_k), 1.0F / static_cast<float>(model.top_k)),
        by_gates_(gates_.size()),
        machine_(options.peak.empty() ? calibrate(comm, *device_, model.hidden) : nominal_machine()),
        costs_(dispatch_costs(machine_, model.hidden, model.intermediate, 12 * model.hidden * model.intermediate,
                              8 * model.hidden)),
        layer_({model.hidden, model.intermediate, model.top_k}, contiguous(model.experts, comm.node_of_rank()),
               {.costs = costs_}, *device_, layers_comm_) {
    const std::int64_t numbers = model.hidden * model.intermediate;
    const float size = 1 / std::sqrt(static_cast<float>(model.hidden));
    for (const int e : layer_.held()) {
      layer_.set_weights(e, random_numbers(2 * numbers, size, 1000 + e), random_numbers(numbers, size, 5000 + e));
      if (!options.backward) continue;
      auto& [gate_up, down] = gradients_.emplace_back(std::vector<float>(2 * numbers), std::vector<float>(numbers));
      by_weights_.push_back({tensor(gate_up, model.hidden), tensor(down, model.intermediate)});
    }
  }

  [[nodiscard]] const Machine& machine() const { return machine_; }

  /// Collective.
  [[nodiscard]] std::vector<Measured> measure(const Load& load) {
    const Policies& policies = options_.policies();
    std::vector<Measured> all(policies.size());
    for (int repeat = -1; repeat < options_.repeats; ++repeat) {  // the first is for the allocations
      choose(load, repeat + 1);
      for (std::size_t turn = 0; turn < policies.size(); ++turn) {
        const std::size_t p = (turn + static_cast<std::size_t>(repeat + 1)) % policies.size();
        Measured once = run(policies[p]);
        if (repeat < 0) continue;
        all[p].forward.push_back(once.forward[0]);
        if (options_.backward) all[p].backward.push_back(once.backward[0]);
        all[p].rows = std::max(all[p].rows, once.rows);
        all[p].guests = std::max(all[p].guests, once.guests);
        all[p].predicted = once.predicted;
      }
    }
    return all;
  }

  /// MiB of the fullest rank: at the most, and that without what it has before the layer runs. Collective.
  std::pair<double, double> peak(const Load& load, const Policy& policy) {
    choose(load, 0);
    const double before = memory("VmRSS");
    std::ofstream("/proc/self/clear_refs") << 5;  // forgets the peak so far
    for (int repeat = 0; repeat < 2; ++repeat) (void)run(policy);
    const double most = memory("VmHWM");
    return {largest(comm_, most), largest(comm_, most - before)};
  }

 private:
  void choose(const Load& load, int seed) {
    const std::int64_t all = comm_.ranks() * model_.tokens * model_.top_k;
    std::vector<std::int32_t> experts;
    double sum = 0;
    for (int e = 0; e < model_.experts; ++e) {
      const bool hot = e < load.hot;
      sum += load.hot == 0 ? 1.0 / model_.experts
             : hot         ? load.share / load.hot
                           : (1 - load.share) / (model_.experts - load.hot);
      experts.resize(e + 1 == model_.experts ? all : std::llround(sum * static_cast<double>(all)), e);
    }
    SplitMix random(static_cast<std::uint64_t>(seed) + 1);
    for (std::size_t i = experts.size(); i > 1; --i) std::swap(experts[i - 1], experts[random.next() % i]);
    const auto mine = experts.begin() + comm_.rank() * model_.tokens * model_.top_k;
    chosen_.assign(mine, mine + model_.tokens * model_.top_k);
  }

  [[nodiscard]] Measured run(const Policy& policy) {
    using Clock = std::chrono::steady_clock;
    const auto seconds = [](auto from, auto to) { return std::chrono::duration<double>(to - from).count(); };
    DispatchOptions dispatch;
    dispatch.policy = policy.policy;
    layers_comm_.overlaps = policy.overlaps;
    dispatch.llep_min_rows = std::max<std::int64_t>(1, dispatch.llep_min_rows / options_.scale);
    layer_.set_dispatch({.dispatch = dispatch, .costs = costs_});
    (void)largest(comm_, 0);  // all begin together
    const auto begin = Clock::now();
    ExpertPass pass = layer_.forward(tensor(x_, model_.hidden), {chosen_, gates_}, tensor(y_, model_.hidden));
    const auto middle = Clock::now();
    Measured m;
    const auto computed = static_cast<double>(pass.computed()), guests = static_cast<double>(pass.guests.size());
    m.predicted = static_cast<double>(pass.after) * 1e-12;
    if (options_.backward) {
      layer_.backward(std::move(pass), tensor(y_, model_.hidden), {tensor(dx_, model_.hidden), by_gates_, by_weights_});
      m.backward = {largest(comm_, seconds(middle, Clock::now()))};
    }
    m.forward = {largest(comm_, seconds(begin, middle))};
    m.rows = largest(comm_, computed);
    m.guests = largest(comm_, guests);
    return m;
  }

  Model model_;
  Options options_;
  Communicator& comm_;
  MayOverlap layers_comm_;
  std::unique_ptr<Device> device_ = make_cpu_device({DType::f32, 1});
  std::vector<float> x_, y_, dx_, gates_, by_gates_;
  Machine machine_;
  DispatchCosts costs_;
  ExpertLayer layer_;
  std::vector<std::pair<std::vector<float>, std::vector<float>>> gradients_;  ///< of gate_up and down; (held)
  std::vector<ExpertGradients> by_weights_;
  std::vector<std::int32_t> chosen_;
};

void print_times(const char* what, const std::vector<std::vector<double>>& seconds) {
  std::printf("   %s", what);
  for (const auto& of : seconds) std::printf(" %7.1f", 1e3 * median(of));
  for (std::size_t p = 1; p < seconds.size(); ++p) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < seconds[p].size(); ++i) ratios.push_back(seconds[0][i] / seconds[p][i]);
    const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
    std::printf("  %5.2f (%.2f..%.2f)", median(ratios), *least, *most);
  }
}

void report_times(Bench& bench, const Load& load, bool backward, bool prints) {
  const std::vector<Measured> m = bench.measure(load);
  if (!prints) return;
  std::vector<std::vector<double>> forward, back, both;
  for (const Measured& of : m) {
    forward.push_back(of.forward);
    back.push_back(of.backward);
    both.push_back(of.forward);
    for (std::size_t i = 0; i < of.backward.size(); ++i) both.back()[i] += of.backward[i];
  }
  std::printf("%-12s", load.name.c_str());
  print_times("", forward);
  if (backward) print_times("", back), print_times("", both);
  std::printf("  ");
  for (const Measured& of : m) std::printf(" %8.0f", of.rows);
  std::printf("  ");
  for (const Measured& of : m) std::printf(" %3.0f", of.guests);
  std::printf("\n");
  std::fflush(stdout);
}

void run(const Options& options, Communicator& comm) {
  const bool prints = comm.rank() == 0;
  for (Model model : models) {
    if (options.model != "all" && options.model != model.name) continue;
    model.hidden /= options.scale;
    model.intermediate /= options.scale;
    model.tokens = options.tokens > 0 ? options.tokens : kPaperRanks * model.tokens / (options.scale * comm.ranks());
    Bench bench(model, options, comm);
    const Link link = bench.machine().between_nodes.value_or(bench.machine().inside_node);
    std::string names;
    for (const Policy& policy : options.policies()) names += (names.empty() ? "" : ", ") + policy.name;
    if (prints && options.peak.empty()) {
      std::printf(
          "%s / %lld on %d ranks: %d experts, top %d, hidden %lld, intermediate %lld, %lld tokens a rank\n"
          "measured: %.1f us and %.2f GB/s between ranks, %.0f GFLOP/s in products of %lld rows\n"
          "forward%s: %s in ms, then speed-ups over the first with the range; rows of the fullest rank; most experts "
          "sent to a rank\n",
          model.name.c_str(), static_cast<long long>(options.scale), comm.ranks(), model.experts, model.top_k,
          static_cast<long long>(model.hidden), static_cast<long long>(model.intermediate),
          static_cast<long long>(model.tokens), 1e6 * link.latency, 1e-9 * link.bandwidth,
          1e-9 * bench.machine().gemm.back().rate, static_cast<long long>(bench.machine().gemm.back().rows),
          options.backward ? ", backward, both" : "", names.c_str());
    }
    for (const Load& load : loads()) {
      if (!options.load.empty() && load.name != options.load) continue;
      if (options.peak.empty()) {
        report_times(bench, load, options.backward, prints);
        continue;
      }
      for (const Policy& policy : all_policies) {
        if (policy.name != options.peak) continue;
        const auto [all, own] = bench.peak(load, policy);
        if (prints) {
          std::printf("%s / %lld %-12s %-12s %7.0f MiB at the most, %7.0f of them while it runs\n", model.name.c_str(),
                      static_cast<long long>(options.scale), load.name.c_str(), policy.name.c_str(), all, own);
        }
      }
    }
  }
}

Options parse(int argc, char** argv) {
  namespace po = boost::program_options;
  Options o;
  po::options_description all;
  auto add = all.add_options();
  add("model", po::value(&o.model)->default_value("all"));
  add("scale", po::value(&o.scale)->default_value(o.scale));
  add("tokens", po::value(&o.tokens));
  add("repeats", po::value(&o.repeats)->default_value(o.repeats));
  add("load", po::value(&o.load)->default_value(""));
  add("peak", po::value(&o.peak)->default_value(""));
  add("backward", po::bool_switch(&o.backward));
  add("overlap", po::bool_switch(&o.overlap));
  po::variables_map values;
  po::store(po::parse_command_line(argc, argv, all), values);
  po::notify(values);
  return o;
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  coterie::MpiSession session(argc, argv);
  try {
    coterie::run(coterie::parse(argc, argv), *coterie::make_mpi_communicator(session, {}));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "layer_bench: %s\n", e.what());
    session.abort(1);
  }
}
