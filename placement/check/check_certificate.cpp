#include "placement/check/check_certificate.hpp"

#include "placement/check/dual_check.hpp"
#include "placement/check/optimum_check.hpp"
#include "placement/check/recount.hpp"
#include "placement/check/row_check.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

namespace coterie {
namespace {

constexpr double kValueTolerance = 1e-9;  // of the figure: what the order of summation may change
constexpr double kBoundTolerance = 1e-7;
constexpr double kLoadSlack = 1e-9;

bool same(double a, double b, double tolerance) {
  return std::abs(a - b) <= tolerance * std::max(1e-3, std::max(std::abs(a), std::abs(b)));
}

RecountRules rules_of(const Plan& plan) {
  if (!plan.certificate) throw InputError("plan: certificate: found none, expected one to check");
  const Certificate& c = *plan.certificate;
  if (c.objective != "affinity" && c.objective != "traffic" && c.objective != "load")
    throw bad_field("plan", "certificate.objective", c.objective, "affinity, traffic or load");
  const std::string domain = c.domain.empty() ? "world" : c.domain;
  if (domain != "rank" && domain != "node" && domain != "world")
    throw bad_field("plan", "certificate.domain", domain, "rank, node or world");
  return {c.objective, domain, c.price_inside_node, c.price_between_nodes, c.top, c.by_gate};
}

void check_traces(const Plan& plan, std::span<const WeightedTrace> traces) {
  if (traces.empty()) throw InputError("no trace: found nothing to check the plan with");
  for (const WeightedTrace& window : traces) {
    if (window.trace->num_experts != plan.experts || window.trace->layer_ids != plan.layer_ids)
      throw bad_field(
          "trace", "num_experts and layer_ids",
          std::to_string(window.trace->num_experts) + " experts, " + std::to_string(window.trace->layers()) + " layers",
          "the plan's " + std::to_string(plan.experts) + " experts and " + std::to_string(plan.layers()) + " layers");
    if (window.first < 0 || window_end(window) > window.trace->tokens() || window_end(window) < window.first)
      throw bad_field("trace", "window of tokens", std::to_string(window_end(window)) + " tokens",
                      "at most " + std::to_string(window.trace->tokens()));
  }
}

/// The check of a plan's bound.
class BoundCheck {
 public:
  BoundCheck(const Plan& plan, std::span<const WeightedTrace> traces, const RecountRules& rules, const Recount& recount)
      : plan_(plan), stated_(*plan.certificate), traces_(traces), rules_(rules), recount_(recount) {
    for (int l = 0; l < plan.layers(); ++l) {
      std::vector<int> held(plan.ranks(), 0);
      int slots = 0;
      for (std::size_t s = 0; s < plan.physical_to_logical[l].size(); ++s) {
        if (plan.physical_to_logical[l][s] == Plan::kEmptySlot) continue;
        ++held[s / plan.slots_per_rank];
        ++slots;
      }
      copies_ = std::max(copies_, slots - plan.experts);
      const auto [least, most] = std::minmax_element(held.begin(), held.end());
      even_counts_ = even_counts_ && *least >= plan.experts / plan.ranks() && *most <= even_share();
    }
  }

  CheckedFigure run(const std::optional<std::filesystem::path>& path) {
    CheckedFigure figure{.verdict = Verdict::not_verified, .stated = stated_.bound, .found = {}, .remark = {}};
    if (stated_.bound_kind.empty()) {
      figure.remark = "the plan states no bound";
      return figure;
    }
    const bool upper = rules_.objective == "affinity";
    const double value = stated_.value;
    if (!same(value, stated_.bound, kBoundTolerance) && (upper ? value > stated_.bound : value < stated_.bound)) {
      figure.verdict = Verdict::fails;
      figure.remark = "the plan itself is better than its bound";
      return figure;
    }
    std::optional<SafetensorsFile> file;
    if (path) file = open(*path);
    if (stated_.bound_kind == "dp") {
      figure.found = by_optimum(file, figure.remark);
    } else if (stated_.bound_kind == "heaviest expert") {
      figure.found = by_heaviest_expert(copies_ == 0 && replicas_ == 0);
      // Nobody says whether copies were allowed; with them the mean is all that is sure.
      if (!file && !same(*figure.found, stated_.bound, kBoundTolerance)) figure.found = by_heaviest_expert(false);
      figure.remark = "from the heaviest expert of each layer";
    } else if (stated_.bound_kind == "ilp") {
      figure.remark = "the word of the solver ilp: nothing here proves it; --solver sweep has dual values to check";
    } else if (file) {
      figure.found = by_dual_values(*file, figure.remark);
    } else {
      figure.remark = "needs the certificate file that coterie plan --certificate wrote";
    }
    if (figure.found)
      figure.verdict = same(*figure.found, stated_.bound, kBoundTolerance) ? Verdict::holds : Verdict::fails;
    return figure;
  }

 private:
  [[nodiscard]] int even_share() const { return (plan_.experts + plan_.ranks() - 1) / plan_.ranks(); }

  SafetensorsFile open(const std::filesystem::path& path) {
    SafetensorsFile file(path);
    const auto expect = [&](const std::string& key, const std::string& expected) {
      const auto at = file.metadata().find(key);
      const std::string found = at == file.metadata().end() ? "nothing" : at->second;
      if (found != expected) throw bad_field(path.string(), key, found, expected + ", as in the plan");
    };
    expect("format", "coterie.certificate/1");
    expect("objective", rules_.objective);
    expect("kind", stated_.bound_kind);
    expect("layers", std::to_string(plan_.layers()));
    expect("experts", std::to_string(plan_.experts));
    const auto text = [&](const std::string& key) {
      const auto at = file.metadata().find(key);
      return at == file.metadata().end() ? std::string() : at->second;
    };
    equal_counts_ = text("equal_counts") == "true";
    const std::string replicas = text("replicas");
    if (replicas.empty() || replicas.size() > 6 ||
        !std::all_of(replicas.begin(), replicas.end(), [](char c) { return c >= '0' && c <= '9'; }))
      throw bad_field(path.string(), "replicas", replicas, "a number");
    replicas_ = std::stoi(replicas);
    if (copies_ > replicas_ || (equal_counts_ && replicas_ == 0 && !even_counts_))
      throw bad_field(path.string(), "equal_counts and replicas", text("equal_counts") + ", " + replicas,
                      "limits that the plan keeps");
    return file;
  }

  // ---- optimum ----

  std::optional<double> by_optimum(const std::optional<SafetensorsFile>& file, std::string& remark) {
    remark = "the optimum, found again by going through all placements of each layer";
    const auto optimum = [&](bool equal) {
      const OptimumLimits limits{.fewest = equal ? plan_.experts / plan_.ranks() : 0,
                                 .most = equal ? std::min(even_share(), plan_.slots_per_rank) : plan_.slots_per_rank,
                                 .balance = stated_.balance};
      return checked_optimum(plan_, traces_, rules_, recount_, limits);
    };
    if (copies_ > 0) return std::nullopt;
    std::optional<double> found = optimum(file ? equal_counts_ : even_counts_);
    // Nobody says whether ranks had to hold equal counts.
    if (!file && found && even_counts_ && plan_.slots_per_rank > even_share() &&
        !same(*found, stated_.bound, kBoundTolerance))
      found = optimum(false);
    if (!found)
      remark =
          "the word of the solver dp: too large to find the optimum again; --solver sweep has dual values to check";
    return found;
  }

  [[nodiscard]] double by_heaviest_expert(bool once) const {
    double sum = 0;
    for (const std::vector<double>& load : recount_.load()) {
      const double mean = std::accumulate(load.begin(), load.end(), 0.0) / plan_.ranks();
      std::vector<double> sorted = load;
      std::sort(sorted.begin(), sorted.end());
      double heaviest = sorted.back();
      if (even_counts_)
        for (int i = 0; i + 1 < plan_.experts / plan_.ranks(); ++i) heaviest += sorted[i];
      sum += mean > 0 ? (once ? std::max(1.0, heaviest / mean) : 1) : 1;
    }
    return sum / plan_.layers();
  }

  // ---- dual values ----

  std::optional<double> by_dual_values(const SafetensorsFile& file, std::string& remark) {
    remark = "from the dual values of the certificate" +
             std::string(equal_counts_ && replicas_ == 0 ? ", for equal counts of experts" : "") +
             (replicas_ > 0 ? ", for up to " + std::to_string(replicas_) + " replicas a layer" : "");
    if (rules_.objective == "affinity") return std::min(1.0, kept_share(file));
    int most = 1;
    for (const WeightedTrace& window : traces_)
      most = std::max(most, rules_.top > 0 ? std::min(rules_.top, window.trace->top_k) : window.trace->top_k);
    const double steps = recount_.tokens() * plan_.layers();
    if (most == 1 && goes_on(plan_.topology, rules_)) {
      const std::vector<double>& load = recount_.load()[0];
      const double first = std::accumulate(load.begin(), load.end(), 0.0) *
                           least_rows(plan_.topology, rules_, checked_rule(plan_.topology, rules_, replicas_ > 0, 0),
                                      capacity(), 1, 0, 0);
      return std::max(0.0, dearest() * (1 - std::min(1.0, kept_share(file))) * recount_.total_pairs() + first) / steps;
    }
    const CheckedRows rows = checked_rows(file, plan_, traces_, rules_, capacity(), replicas_ > 0);
    double least = rows.constant;
    for (const bool ranks : {true, false}) {
      const std::string name = ranks ? "rank" : "node";
      if (!file.contains(name + ".matrix")) {
        const auto& pairs = ranks ? rows.rank_pairs : rows.node_pairs;
        for (const auto& layer : pairs)
          if (std::any_of(layer.begin(), layer.end(), [](double w) { return w > 0; }))
            throw bad_field(file.path().string(), name + ".matrix", "nothing", "what bounds the prices of its pairs");
        continue;
      }
      CheckedRelaxation relaxation = relaxation_of(file, ranks);
      relaxation.within = ranks ? rows.rank_pairs : rows.node_pairs;
      least -= checked_bound(file, name, relaxation);
    }
    return std::max(0.0, least) / steps;
  }

  [[nodiscard]] double dearest() const {
    const int nodes = plan_.topology.nodes();
    return std::max(plan_.ranks() > nodes ? rules_.near_price : 0, nodes > 1 ? rules_.far_price : 0);
  }

  /// Kept weight: what a pair keeps however far apart, and what it gains by sharing a node and by sharing a rank.
  [[nodiscard]] double kept_share(const SafetensorsFile& file) const {
    const double total = recount_.total_pairs();
    if (total <= 0 || dearest() <= 0) return 1;
    const int nodes = plan_.topology.nodes();
    const double in_node = 1 - rules_.near_price / dearest();
    const double apart = nodes > 1 ? 1 - rules_.far_price / dearest() : in_node;
    const double gain = nodes > 1 ? std::max(0.0, in_node - apart) : 0;
    double kept = apart * total;
    for (const bool ranks : {true, false}) {
      const double worth = ranks ? 1 - apart - gain : gain;
      if (worth <= 0) continue;
      const std::string name = ranks ? "rank" : "node";
      double most = by_degrees(part_capacity(ranks)) + replica_pairs(part_capacity(ranks));
      if (file.contains(name + ".matrix")) {
        CheckedRelaxation relaxation = relaxation_of(file, ranks);
        relaxation.between = recount_.pairs();
        most = std::min(most, checked_bound(file, name, relaxation));
      }
      kept += worth * most;
    }
    return kept / total;
  }

  /// An expert shares its part with no more than `capacity` experts of a neighbouring layer.
  [[nodiscard]] double by_degrees(int capacity) const {
    double sum = 0;
    const auto experts = static_cast<std::size_t>(plan_.experts);
    for (const std::vector<double>& weight : recount_.pairs()) {
      double rows = 0, columns = 0;
      for (std::size_t i = 0; i < experts; ++i) {
        std::vector<double> row(experts), column(experts);
        for (std::size_t j = 0; j < experts; ++j) {
          row[j] = weight[i * experts + j];
          column[j] = weight[j * experts + i];
        }
        std::sort(row.rbegin(), row.rend());
        std::sort(column.rbegin(), column.rend());
        for (std::size_t j = 0; j < std::min<std::size_t>(capacity, experts); ++j) {
          rows += row[j];
          columns += column[j];
        }
      }
      sum += std::min(rows, columns);
    }
    return sum;
  }

  /// Most that further copies add to pairs of neighbouring layers, by their weights alone.
  [[nodiscard]] double replica_pairs(int meets) const {
    double sum = 0;
    const auto experts = static_cast<std::size_t>(plan_.experts);
    for (const std::vector<double>& weight : recount_.pairs()) {
      std::vector<double> turned(weight.size());
      for (std::size_t i = 0; i < experts; ++i)
        for (std::size_t j = 0; j < experts; ++j) turned[j * experts + i] = weight[i * experts + j];
      sum += most_of_copies(weight, plan_.experts, replicas_, meets) +
             most_of_copies(turned, plan_.experts, replicas_, meets);
    }
    return sum;
  }

  /// Experts of a layer on one rank.
  [[nodiscard]] int capacity() const {
    return replicas_ == 0 && equal_counts_ ? std::min(even_share(), plan_.slots_per_rank) : plan_.slots_per_rank;
  }
  [[nodiscard]] int part_capacity(bool ranks) const {
    const auto& nodes = plan_.topology.ranks_per_node;
    return ranks ? capacity() : capacity() * *std::max_element(nodes.begin(), nodes.end());
  }

  /// What is known of the items without any weights: placement/bound/bounds.md.
  [[nodiscard]] CheckedRelaxation relaxation_of(const SafetensorsFile& file, bool ranks) const {
    CheckedRelaxation made;
    made.layers = plan_.layers();
    made.experts = plan_.experts;
    made.parts = ranks ? plan_.ranks() : plan_.topology.nodes();
    made.capacity = part_capacity(ranks);
    made.replicas = replicas_;
    const std::string name = ranks ? "rank" : "node";
    for (const auto& [key, expected] : {std::pair(name + ".parts", made.parts), {name + ".capacity", made.capacity}}) {
      const auto at = file.metadata().find(key);
      if (at == file.metadata().end() || at->second != std::to_string(expected))
        throw bad_field(file.path().string(), key, at == file.metadata().end() ? "nothing" : at->second,
                        std::to_string(expected) + ", as in the plan");
    }
    const int n = made.items();
    const auto square = static_cast<std::size_t>(n) * n;
    made.known.assign(made.layers, std::vector(square, CheckedRelaxation::free));
    made.known_between.assign(square, CheckedRelaxation::free);
    const auto know = [&](int i, int j, CheckedRelaxation::Known what) {
      for (auto& layer : made.known) layer[static_cast<std::size_t>(i) * n + j] = what;
    };
    const int fewest = equal_counts_ ? plan_.experts / plan_.ranks() : 0;
    if (ranks && replicas_ == 0 && made.capacity - fewest <= 1) {
      for (int i = plan_.experts; i < n; ++i)
        for (int j = i + 1; j < n; ++j) know(i, j, CheckedRelaxation::apart);
    } else if (!ranks) {
      const auto& nodes = plan_.topology.ranks_per_node;
      std::vector<int> node_of_slot;  // of the slots that are empty because their node is small
      for (int node = 0; node < plan_.topology.nodes(); ++node)
        node_of_slot.insert(node_of_slot.end(), made.capacity - nodes[node] * capacity(), node);
      for (std::size_t a = 0; a < node_of_slot.size(); ++a)
        for (std::size_t b = 0; b < node_of_slot.size(); ++b) {
          const auto what = node_of_slot[a] == node_of_slot[b] ? CheckedRelaxation::together : CheckedRelaxation::apart;
          const int i = plan_.experts + static_cast<int>(a), j = plan_.experts + static_cast<int>(b);
          made.known_between[static_cast<std::size_t>(i) * n + j] = what;
          if (i < j) know(i, j, what);
        }
    }
    know_loads(made, ranks);
    return made;
  }

  void know_loads(CheckedRelaxation& made, bool ranks) const {
    const auto& nodes = plan_.topology.ranks_per_node;
    const bool even = std::all_of(nodes.begin(), nodes.end(), [&](int size) { return size == nodes[0]; });
    if (stated_.balance <= 0 || replicas_ > 0 || (!ranks && !even)) return;
    const int n = made.items();
    made.load.assign(made.layers, std::vector<double>(n, 0));
    for (int l = 0; l < made.layers; ++l) {
      const std::vector<double>& load = recount_.load()[l];
      const double mean = std::accumulate(load.begin(), load.end(), 0.0) / plan_.ranks();
      const double limit = stated_.balance * mean * (1 + kLoadSlack) * (ranks ? 1 : nodes[0]);
      if (limit <= 0) continue;
      for (int e = 0; e < plan_.experts; ++e) made.load[l][e] = load[e] / limit;
      for (int i = 0; i < plan_.experts; ++i)
        for (int j = i + 1; j < plan_.experts; ++j)
          if (made.load[l][i] + made.load[l][j] > 1 + 1e-9)
            made.known[l][static_cast<std::size_t>(i) * n + j] = CheckedRelaxation::apart;
    }
  }

  const Plan& plan_;
  const Certificate& stated_;
  std::span<const WeightedTrace> traces_;
  const RecountRules& rules_;
  const Recount& recount_;
  bool even_counts_ = true;   // the plan's ranks hold equal counts, as far as they can
  bool equal_counts_ = true;  // all placements that the bound speaks of do
  int copies_ = 0;            // of the plan, per layer, at most
  int replicas_ = 0;          // of the placements that the bound speaks of
};

}  // namespace

std::string_view name_of(Verdict verdict) noexcept {
  switch (verdict) {
    case Verdict::holds:
      return "holds";
    case Verdict::fails:
      return "fails";
    case Verdict::not_verified:
      break;
  }
  return "not verified";
}

namespace {

CheckedFigure counted_again(double stated, double found) {
  return {.verdict = same(stated, found, kValueTolerance) ? Verdict::holds : Verdict::fails,
          .stated = stated,
          .found = found,
          .remark = "counted again from the traces"};
}

}  // namespace

CheckResult check_certificate(const Plan& plan, std::span<const WeightedTrace> traces,
                              const std::optional<std::filesystem::path>& certificate) {
  const RecountRules rules = rules_of(plan);
  check_traces(plan, traces);
  const Recount recount(plan, traces, rules);
  const Certificate& stated = *plan.certificate;
  CheckResult result;
  result.value = counted_again(stated.value, recount.value());
  const Plan contiguous = contiguous_plan(plan.model, plan.layer_ids, plan.experts, plan.top_k, plan.topology);
  result.baseline = counted_again(stated.baseline, Recount(contiguous, traces, rules).value());
  const double balance = stated.balance;
  for (int l = 0; l < plan.layers() && balance > 0 && result.limits.empty(); ++l)
    if (recount.heaviest()[l] > balance * (1 + 2 * kLoadSlack))
      result.limits = "load limit " + std::to_string(balance) + ": layer " + std::to_string(plan.layer_ids[l]) +
                      " has a rank with " + std::to_string(recount.heaviest()[l]) + " times the mean";
  result.bound = BoundCheck(plan, traces, rules, recount).run(certificate);
  if (!stated.bound_kind.empty()) {
    const double apart = std::abs(stated.bound - stated.value);
    result.gap = {.verdict = Verdict::fails,
                  .stated = stated.gap,
                  .found = stated.value != 0 ? apart / std::abs(stated.value) : apart,
                  .remark = "between the stated value and bound"};
    if (same(*result.gap.found, stated.gap, kBoundTolerance)) result.gap.verdict = Verdict::holds;
  }
  return result;
}

}  // namespace coterie
