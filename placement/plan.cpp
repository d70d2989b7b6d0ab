#include "placement/plan.hpp"

#include "placement/files/json_view.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <limits>

namespace coterie {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kFormat = "coterie.plan/1";
constexpr const char* kNoBound = "none";
constexpr int kMostExperts = 65535;
constexpr int kMostRanks = 1 << 20;
constexpr std::int64_t kMostInteger = std::numeric_limits<std::int64_t>::max();

Topology read_topology(const JsonView& view) {
  const auto nodes = static_cast<std::size_t>(view["nodes"].integer(1, kMostRanks));
  const JsonView per_node = view["ranks_per_node"];
  Topology topology;
  if (per_node.value().is_array()) {
    topology.ranks_per_node = per_node.integers(1, kMostRanks);
    if (topology.ranks_per_node.size() != nodes) throw per_node.error("one number for each of the nodes");
  } else {
    topology.ranks_per_node.assign(nodes, static_cast<int>(per_node.integer(1, kMostRanks)));
  }
  std::int64_t ranks = 0;
  for (const int n : topology.ranks_per_node) ranks += n;
  if (ranks > kMostRanks) throw view.error("at most " + std::to_string(kMostRanks) + " ranks");
  return topology;
}

ordered_json topology_json(const Topology& topology) {
  const auto& per_node = topology.ranks_per_node;
  const bool even = std::all_of(per_node.begin(), per_node.end(), [&](int n) { return n == per_node.front(); });
  return {{"nodes", topology.nodes()},
          {"ranks_per_node", even ? ordered_json(per_node.front()) : ordered_json(per_node)}};
}

/// A number that may be missing.
double number_from(const JsonView& view, const std::string& field, double otherwise, double least) {
  if (!view.has(field)) return otherwise;
  const double value = view[field].number();
  if (value < least) throw view[field].error("a number of at least " + std::to_string(static_cast<int>(least)));
  return value;
}

Certificate read_certificate(const JsonView& view) {
  Certificate c;
  c.objective = view["objective"].text();
  if (c.objective != "affinity" && c.objective != "traffic" && c.objective != "load")
    throw view["objective"].error("\"affinity\", \"traffic\" or \"load\"");
  c.value = view["value"].number();
  c.baseline = view["baseline"].number();
  c.solver = view["solver"].text();
  c.seconds = view["seconds"].number();
  c.seed = static_cast<std::uint64_t>(view["seed"].integer(0, kMostInteger));
  if (view.has("bound_kind")) c.bound_kind = view["bound_kind"].text();
  if (c.bound_kind == kNoBound || view["bound"].value().is_null()) {
    c.bound_kind.clear();
  } else {
    c.bound = view["bound"].number();
    c.gap = view["gap"].number();
  }
  if (view.has("domain")) c.domain = view["domain"].text();
  if (!c.domain.empty() && c.domain != "rank" && c.domain != "node" && c.domain != "world")
    throw view["domain"].error("\"rank\", \"node\" or \"world\"");
  c.price_inside_node = number_from(view, "price_inside_node", c.price_inside_node, 0);
  c.price_between_nodes = number_from(view, "price_between_nodes", c.price_between_nodes, 0);
  if (c.price_between_nodes < c.price_inside_node)
    throw view["price_between_nodes"].error("at least price_inside_node");
  c.balance = number_from(view, "balance", c.balance, 0);
  if (view.has("top")) c.top = static_cast<int>(view["top"].integer(0, kMostExperts));
  if (view.has("by_gate")) c.by_gate = view["by_gate"].boolean();
  c.holdout = number_from(view, "holdout", c.holdout, 0);
  if (c.holdout >= 1) throw view["holdout"].error("a share below 1");
  return c;
}

ordered_json certificate_json(const Certificate& c) {
  const bool proven = !c.bound_kind.empty();
  return {{"objective", c.objective},
          {"value", c.value},
          {"baseline", c.baseline},
          {"bound", proven ? ordered_json(c.bound) : ordered_json()},
          {"gap", proven ? ordered_json(c.gap) : ordered_json()},
          {"bound_kind", proven ? c.bound_kind : kNoBound},
          {"solver", c.solver},
          {"seconds", c.seconds},
          {"seed", c.seed},
          {"domain", c.domain},
          {"price_inside_node", c.price_inside_node},
          {"price_between_nodes", c.price_between_nodes},
          {"balance", c.balance},
          {"top", c.top},
          {"by_gate", c.by_gate},
          {"holdout", c.holdout}};
}

PlanSource read_source(const JsonView& view) {
  PlanSource s{view["file"].text(), view["digest"].text()};
  s.weight = number_from(view, "weight", s.weight, 0);
  if (view.has("first")) s.first = view["first"].integer(0, kMostInteger);
  if (view.has("count")) s.count = view["count"].integer(-1, kMostInteger);
  return s;
}

ordered_json source_json(const PlanSource& s) {
  return {{"file", s.file}, {"digest", s.digest}, {"weight", s.weight}, {"first", s.first}, {"count", s.count}};
}

std::string dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

void validate_layer(const Plan& plan, const std::string& where, int layer) {
  const auto& row = plan.physical_to_logical[layer];
  const std::string field = "physical_to_logical[" + std::to_string(layer) + "]";
  const auto slots = static_cast<std::size_t>(plan.ranks()) * static_cast<std::size_t>(plan.slots_per_rank);
  if (row.size() != slots)
    throw bad_field(where, field, std::to_string(row.size()) + " slots",
                    std::to_string(slots) + " (" + std::to_string(plan.ranks()) + " ranks x slots_per_rank)");
  std::vector<int> last_rank(plan.experts, -1);  // that was seen to hold the expert
  for (std::size_t s = 0; s < slots; ++s) {
    const int expert = row[s];
    if (expert == Plan::kEmptySlot) continue;
    const int rank = static_cast<int>(s / static_cast<std::size_t>(plan.slots_per_rank));
    if (expert < 0 || expert >= plan.experts)
      throw bad_field(where, field + "[" + std::to_string(s) + "]", std::to_string(expert),
                      "an expert below " + std::to_string(plan.experts) + ", or -1 for an empty slot");
    if (last_rank[expert] == rank)
      throw bad_field(where, field + "[" + std::to_string(s) + "]",
                      "expert " + std::to_string(expert) + " again on rank " + std::to_string(rank),
                      "an expert once on a rank");
    last_rank[expert] = rank;
  }
  for (int e = 0; e < plan.experts; ++e)
    if (last_rank[e] < 0)
      throw bad_field(where, field, "expert " + std::to_string(e) + " without owner", "every expert on a rank");
}

}  // namespace

std::vector<int> Plan::owners(int layer, int expert) const {
  const auto& row = physical_to_logical[layer];
  std::vector<int> ranks;
  for (std::size_t s = 0; s < row.size(); ++s)
    if (row[s] == expert) ranks.push_back(static_cast<int>(s / static_cast<std::size_t>(slots_per_rank)));
  return ranks;
}

Plan contiguous_plan(const std::string& model, const std::vector<int>& layer_ids, int experts, int top_k,
                     const Topology& topology) {
  const int ranks = topology.ranks();
  const int slots = (experts + ranks - 1) / ranks;
  std::vector<int> row(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(slots), Plan::kEmptySlot);
  int expert = 0;
  for (int r = 0; r < ranks; ++r) {
    const int count = experts / ranks + (r < experts % ranks ? 1 : 0);
    for (int s = 0; s < count; ++s) row[static_cast<std::size_t>(r) * slots + s] = expert++;
  }
  Plan plan;
  plan.model = model;
  plan.layer_ids = layer_ids;
  plan.experts = experts;
  plan.top_k = top_k;
  plan.topology = topology;
  plan.slots_per_rank = slots;
  plan.physical_to_logical.assign(layer_ids.size(), row);
  return plan;
}

Plan read_plan(const std::filesystem::path& path) {
  const json file = read_json(path);
  const std::string where = path.string();
  const JsonView root(file, where);
  if (root["format"].text() != kFormat) throw root["format"].error(std::string("\"") + kFormat + '"');

  Plan plan;
  const JsonView model = root["model"];
  plan.model = model["name"].text();
  plan.layer_ids = model["layer_ids"].integers(0, std::numeric_limits<int>::max());
  if (model["layers"].integer(1, std::numeric_limits<int>::max()) != plan.layers())
    throw model["layers"].error("the length of layer_ids, " + std::to_string(plan.layers()));
  plan.experts = static_cast<int>(model["experts"].integer(1, kMostExperts));
  plan.top_k = static_cast<int>(model["top_k"].integer(1, plan.experts));
  plan.topology = read_topology(root["topology"]);
  plan.slots_per_rank = static_cast<int>(root["slots_per_rank"].integer(1, plan.experts));
  const JsonView map = root["physical_to_logical"];
  for (std::size_t l = 0; l < map.size(); ++l)
    plan.physical_to_logical.push_back(map[l].integers(Plan::kEmptySlot, plan.experts - 1));
  if (root.has("certificate")) plan.certificate = read_certificate(root["certificate"]);
  if (root.has("sources"))
    for (std::size_t i = 0; i < root["sources"].size(); ++i) plan.sources.push_back(read_source(root["sources"][i]));
  validate(plan, where);
  return plan;
}

void validate(const Plan& plan, const std::string& where) {
  if (plan.layer_ids.empty()) throw bad_field(where, "model.layer_ids", "[]", "at least one layer");
  for (std::size_t l = 0; l < plan.layer_ids.size(); ++l)
    if (plan.layer_ids[l] < 0 || (l > 0 && plan.layer_ids[l] <= plan.layer_ids[l - 1]))
      throw bad_field(where, "model.layer_ids[" + std::to_string(l) + "]", std::to_string(plan.layer_ids[l]),
                      "layers in ascending order, from 0");
  if (plan.experts < 1 || plan.experts > kMostExperts)
    throw bad_field(where, "model.experts", std::to_string(plan.experts), "1 to " + std::to_string(kMostExperts));
  if (plan.top_k < 1 || plan.top_k > plan.experts)
    throw bad_field(where, "model.top_k", std::to_string(plan.top_k), "1 to " + std::to_string(plan.experts));
  for (const int n : plan.topology.ranks_per_node)
    if (n < 1) throw bad_field(where, "topology.ranks_per_node", std::to_string(n), "at least 1");
  if (plan.ranks() < 1) throw bad_field(where, "topology", "0 ranks", "at least 1");
  if (plan.slots_per_rank < 1 || plan.slots_per_rank > plan.experts)
    throw bad_field(where, "slots_per_rank", std::to_string(plan.slots_per_rank), "1 to the number of experts");
  if (plan.physical_to_logical.size() != plan.layer_ids.size())
    throw bad_field(where, "physical_to_logical", std::to_string(plan.physical_to_logical.size()) + " rows",
                    std::to_string(plan.layers()) + ", one for each of layer_ids");
  for (int l = 0; l < plan.layers(); ++l) validate_layer(plan, where, l);
}

void write_plan(const std::filesystem::path& path, const Plan& plan) {
  validate(plan, path.string());
  const ordered_json model{{"name", plan.model},
                           {"layers", plan.layers()},
                           {"layer_ids", plan.layer_ids},
                           {"experts", plan.experts},
                           {"top_k", plan.top_k}};
  // By hand, so that a layer is a line.
  std::string text = "{\n  \"format\": \"" + std::string(kFormat) + "\",\n  \"model\": " + dump(model) +
                     ",\n  \"topology\": " + dump(topology_json(plan.topology)) +
                     ",\n  \"slots_per_rank\": " + std::to_string(plan.slots_per_rank) +
                     ",\n  \"physical_to_logical\": [";
  for (int l = 0; l < plan.layers(); ++l) text += (l == 0 ? "\n    " : ",\n    ") + dump(plan.physical_to_logical[l]);
  text += "\n  ]";
  if (plan.certificate) text += ",\n  \"certificate\": " + dump(certificate_json(*plan.certificate));
  if (!plan.sources.empty()) {
    ordered_json sources;
    for (const PlanSource& s : plan.sources) sources.push_back(source_json(s));
    text += ",\n  \"sources\": " + dump(sources);
  }
  replace_file(path, text + "\n}\n");
}

}  // namespace coterie
