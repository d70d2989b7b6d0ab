#include "launch/plan_options.hpp"

#include "launch/given_options.hpp"
#include "launch/outputs.hpp"
#include "placement/solvers/solver.hpp"

#include <boost/program_options.hpp>

#include <algorithm>
#include <limits>
#include <sstream>

namespace coterie {
namespace {

namespace po = boost::program_options;

constexpr int kMostRanks = 65535;

po::typed_value<std::string>* text(const char* shown) {
  return po::value<std::string>()->value_name(shown);
}

po::typed_value<std::string>* text(const char* shown, const char* otherwise) {
  return text(shown)->default_value(otherwise);
}

std::string all_solvers() {
  std::string all;
  for (const std::string_view name : solver_names()) all += (all.empty() ? "" : ", ") + std::string(name);
  return all;
}

po::options_description all_options() {
  constexpr unsigned kWidth = 116, kTextWidth = 80;
  po::options_description input("Traces", kWidth, kTextWidth), cluster("Cluster", kWidth, kTextWidth),
      goal("Goal", kWidth, kTextWidth), search("Search", kWidth, kTextWidth), output("Output", kWidth, kTextWidth), all;
  const std::string solvers = all_solvers();
  input.add_options()("trace", po::value<std::vector<std::string>>()->value_name("FILE[=W]"),
                      "trace (counts for --objective load), weighing W beside others; may be repeated")(
      "window", text("FIRST:COUNT"), "tokens of every trace (without: all)")(
      "top", text("N", "0"), "count only the first N choices of a token; 0: all")(
      "holdout", text("SHARE", "0"), "share of the sequences that is kept out, to see whether the fit carries over");
  cluster.add_options()("ranks", text("N"), "ranks, spread over the nodes, the first ones with one more")(
      "nodes", text("N", "1"), "nodes")("ranks-per-node", text("LIST"),
                                        "instead of both: ranks of each node, as 4,4,2")(
      "slots", text("N"), "experts of a layer that fit a rank (without: what is needed)")(
      "replicas", text("N", "0"), "further copies of experts, per layer")(
      "memory", text("SIZE"), "of a rank for experts, as 64GiB (without: the machine file's, or no limit)")(
      "expert-size", text("SIZE"), "of one expert of one layer; without it no memory is looked at")(
      "price", text("A:B", "1:8"), "of a row inside a node, and between nodes")(
      "machine", text("FILE"), "machine file (coterie.machine/1), for prices and memory");
  goal.add_options()(
      "objective", text("NAME", "traffic"),
      "traffic: fewest priced rows; affinity: most weight stays on its rank; load: lightest heaviest rank")(
      "domain", text("NAME", "world"), "coherence domain that traffic is counted for: rank, node, world")(
      "balance", text("X|none"), "heaviest rank over mean in every layer (without: 1.1, or what can be kept)")(
      "unequal-counts", "ranks may hold more experts of a layer than others, up to their slots");
  search.add_options()("solver", text("NAME", "auto"), solvers.c_str())("time-limit", text("SECONDS", "60"),
                                                                        "for search and bound together")(
      "gap", text("SHARE", "0.01"), "stop when the plan is proven to be so near the best")("no-bound", "prove nothing")(
      "seed", text("N", "1"), "of all random choices")("threads", text("N", "0"), "0: all cores");
  output.add_options()("output,o", text("FILE"), "the plan (without: only the summary)")(
      "certificate", text("FILE"), "dual values that prove the bound, for coterie inspect --check")(
      "report", text("FILE"), "a page for people, self-contained HTML")(
      "compare", "a table of what the other solvers reach")("help,h", "this text");
  all.add(input).add(cluster).add(goal).add(search).add(output);
  return all;
}

/// "a.safetensors=2"; a file of that very name goes first.
PlanOptions::Source source_of(const GivenOptions& given, const std::string& text) {
  const auto sign = text.rfind('=');
  if (text.empty() || sign == 0) throw given.wrong("trace", text, "a path");
  if (sign == std::string::npos || std::filesystem::exists(text)) return {text, 1};
  return {
      text.substr(0, sign),
      given.number_in<double>("trace", std::string_view(text).substr(sign + 1), 1e-9, 1e9,
                              "a weight above 0 behind the last ="),
  };
}

Topology topology_of(const GivenOptions& given) {
  const std::string whole = "a whole number from 1 to " + std::to_string(kMostRanks);
  Topology topology;
  if (given.has("ranks-per-node")) {
    if (given.has("ranks") || given.has("nodes"))
      throw given.wrong("ranks-per-node", "it alone, or --ranks and --nodes");
    std::istringstream parts(given.text("ranks-per-node"));
    for (std::string part; std::getline(parts, part, ',');)
      topology.ranks_per_node.push_back(
          given.number_in("ranks-per-node", part, 1, kMostRanks, "whole numbers, as 4,4,2"));
    if (topology.ranks_per_node.empty() || topology.ranks() > kMostRanks)
      throw given.wrong("ranks-per-node", "whole numbers, as 4,4,2");
    return topology;
  }
  if (!given.has("ranks")) throw given.missing("ranks");
  const int ranks = given.number("ranks", 1, kMostRanks, whole);
  const int nodes = given.number("nodes", 1, ranks, "a whole number from 1 to the number of ranks");
  for (int n = 0; n < nodes; ++n) topology.ranks_per_node.push_back(ranks / nodes + (n < ranks % nodes ? 1 : 0));
  return topology;
}

LinkPrices prices_of(const GivenOptions& given) {
  const std::string found = given.text("price"), expected = "two prices from 0, as 1:8";
  const auto colon = found.find(':');
  if (colon == std::string::npos) throw given.wrong("price", expected);
  const auto side = [&](std::string_view digits) { return given.number_in<double>("price", digits, 0, 1e9, expected); };
  const LinkPrices prices{side(std::string_view(found).substr(0, colon)),
                          side(std::string_view(found).substr(colon + 1))};
  if (prices.between_nodes < prices.inside_node)
    throw given.wrong("price", expected + ", the second at least the first");
  return prices;
}

void read_window(const GivenOptions& given, PlanOptions& o) {
  if (!given.has("window")) return;
  const std::string found = given.text("window"), expected = "the first token and how many, as 1000:5000";
  const auto colon = found.find(':');
  if (colon == std::string::npos) throw given.wrong("window", expected);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 2;
  o.first = given.number_in<std::int64_t>("window", std::string_view(found).substr(0, colon), 0, kMost, expected);
  o.count = given.number_in<std::int64_t>("window", std::string_view(found).substr(colon + 1), 1, kMost, expected);
}

void check_files(const GivenOptions& given, const PlanOptions& o) {
  std::vector<NamedFile> inputs{{"--machine", o.machine}};
  for (const PlanOptions::Source& trace : o.traces) inputs.push_back({"the input " + trace.path.string(), trace.path});
  const NamedFile outputs[] = {{"--output", o.output}, {"--certificate", o.certificate}, {"--report", o.report}};
  check_outputs("coterie plan", outputs, inputs);
  if (!o.certificate.empty() && !o.bound) throw given.wrong("certificate", "a bound to certify: leave --no-bound out");
}

}  // namespace

std::optional<PlanOptions> parse_plan_options(std::span<const char* const> arguments) {
  const GivenOptions given("plan", all_options(), arguments);
  if (given.has("help")) return std::nullopt;
  constexpr int kMost = std::numeric_limits<int>::max();

  PlanOptions o;
  for (const std::string& name : given.texts("trace")) o.traces.push_back(source_of(given, name));
  if (o.traces.empty()) throw given.missing("trace");
  read_window(given, o);
  o.top = given.number("top", 0, kMost, "a whole number, 0 for all");
  o.holdout = given.number<double>("holdout", 0, 0.95, "a share from 0 to 0.95");
  o.machine = given.path("machine");

  o.topology = topology_of(given);
  if (given.has("slots")) o.slots = given.number("slots", 1, kMost, "a whole number from 1");
  o.replicas = given.number("replicas", 0, kMost, "a whole number from 0");
  if (given.has("memory")) o.memory = given.bytes("memory", 1);
  if (given.has("expert-size")) {
    o.expert_size = given.bytes("expert-size", 1);
    if (o.memory == 0 && o.machine.empty()) throw given.wrong("expert-size", "--memory or --machine beside it");
  }
  if (o.memory > 0 && o.expert_size == 0) throw given.wrong("memory", "--expert-size beside it");
  if (given.has("price")) o.prices = prices_of(given);

  o.objective = objective_of(given.text("objective"), given.label("objective"));
  o.domain = domain_of(given.text("domain"), given.label("domain"));
  o.strict_balance = given.has("balance");
  if (given.text("balance") == "none")
    o.balance.reset();
  else if (o.strict_balance)
    o.balance = given.number<double>("balance", 1, 1e6, "none, or a number from 1, the heaviest rank over the mean");
  o.unequal_counts = given.has("unequal-counts");

  o.solver = given.text("solver");
  const auto names = solver_names();
  if (std::find(names.begin(), names.end(), o.solver) == names.end())
    throw given.wrong("solver", "one of " + all_solvers());
  o.time_limit = given.number<double>("time-limit", 1e-3, 1e7, "a number of seconds above 0");
  o.gap = given.number<double>("gap", 0, 1, "a share from 0 to 1");
  o.seed = given.number<std::uint64_t>("seed", 0, std::numeric_limits<std::int64_t>::max(),
                                       "a whole number from 0 to 9223372036854775807");
  o.threads = given.number("threads", 0, 4096, "a whole number from 0 to 4096");
  o.compare = given.has("compare");
  o.bound = !given.has("no-bound");

  o.output = given.path("output");
  o.certificate = given.path("certificate");
  o.report = given.path("report");
  check_files(given, o);
  return o;
}

std::string plan_help() {
  std::ostringstream out;
  out << "usage: coterie plan --trace FILE --ranks N [--output FILE] [options]\n" << all_options();
  return out.str();
}

}  // namespace coterie
