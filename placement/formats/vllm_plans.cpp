// Placements that vLLM takes: EPLB's initial mapping (JSON lines: slots of each MoE layer, counted from 0), and an
// expert placement file ({"expert_to_ep_rank"}: one list for all layers).
#include "placement/files/json_lines.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/slot_rows.hpp"
#include "placement/input_error.hpp"

#include <algorithm>

namespace coterie {
namespace {

constexpr const char* kMapping = "eplb_initial_mapping";
constexpr const char* kRanks = "expert_to_ep_rank";

bool is_mapping(const std::filesystem::path& path) {
  return first_line_text(path, "record_type") == kMapping;
}

SlotRows mapping_rows(const JsonView& record) {
  const JsonView assignments = record["initial_global_assignments"];
  const auto slots = static_cast<std::size_t>(record["num_slots"].integer(1, 1 << 20));
  if (!assignments.value().is_object()) throw assignments.error("an object");
  SlotRows rows;
  for (std::size_t l = 0; l < assignments.value().size(); ++l) {
    const JsonView row = assignments[std::to_string(l)];
    rows.push_back(row.integers(0, 65534));
    if (rows.back().size() != slots) throw row.error(std::to_string(slots) + " slots, as num_slots says");
  }
  return rows;
}

Plan read_mapping(const std::filesystem::path& path, const FormatOptions& options) {
  const std::string where = path.string();
  std::optional<Plan> plan;
  for_each_json_line(path, [&](const JsonView& record) {
    if (record["record_type"].text() != kMapping) return;
    if (plan) throw record["record_type"].error("one such record");
    if (record["version"].integer(1, 1 << 20) != 1) throw record["version"].error("1");
    SlotRows rows = mapping_rows(record);
    auto layer_ids = moe_layers(rows.size(), options, where);
    const auto redundant = record["num_redundant_experts"].integer(0, 1 << 20);
    const auto slots = static_cast<std::int64_t>(rows.empty() ? 0 : rows.front().size());
    plan = plan_of_slots(std::move(rows), std::move(layer_ids), options, where);
    if (slots - redundant != plan->experts)
      throw record["num_redundant_experts"].error("slots - experts = " + std::to_string(slots - plan->experts));
  });
  if (!plan) throw bad_field(where, "record_type", "none", std::string("a record of type ") + kMapping);
  return *plan;
}

void write_mapping(const std::filesystem::path& path, const Plan& plan, const FormatOptions& options) {
  const SlotRows rows = full_slots(plan, options, "vLLM");
  nlohmann::ordered_json assignments;
  for (std::size_t l = 0; l < rows.size(); ++l) assignments[std::to_string(l)] = rows[l];
  const int slots = static_cast<int>(rows.front().size());
  const nlohmann::ordered_json record{{"record_type", kMapping},
                                      {"version", 1},
                                      {"num_redundant_experts", slots - plan.experts},
                                      {"num_slots", slots},
                                      {"initial_global_assignments", assignments}};
  replace_file(path, record.dump() + "\n");
}

bool is_ep_ranks(const std::filesystem::path& path) {
  try {
    const nlohmann::json file = read_json(path);
    return file.is_object() && file.contains(kRanks);
  } catch (const InputError&) {
    return false;
  }
}

Plan read_ep_ranks(const std::filesystem::path& path, const FormatOptions& options) {
  const std::string where = path.string();
  const nlohmann::json file = read_json(path);
  const auto row = JsonView(file, where)[kRanks].integers(0, 65535);
  const auto dense = static_cast<int>(options.dense_layers.size());
  const auto layers =
      !options.layer_ids.empty() ? static_cast<int>(options.layer_ids.size()) : options.hidden_layers - dense;
  if (layers < 1)
    throw bad_field(where, "layers", "nothing", "--layer-ids or --num-hidden-layers: the format doesn't say it");
  const SlotRows rows(static_cast<std::size_t>(layers), row);
  return plan_of_ranks(rows, moe_layers(rows.size(), options, where), options, where);
}

void write_ep_ranks(const std::filesystem::path& path, const Plan& plan, const FormatOptions&) {
  const std::string system = "vLLM's expert placement file";
  const SlotRows rows = sole_ranks(plan, system);
  for (std::size_t l = 1; l < rows.size(); ++l)
    if (rows[l] != rows.front())
      throw InputError("plan: layers " + std::to_string(plan.layer_ids.front()) + " and " +
                       std::to_string(plan.layer_ids[l]) + " place experts differently, and " + system +
                       " has one list for all layers; vllm-mapping can say it");
  replace_file(path, nlohmann::json{{kRanks, rows.front()}}.dump() + "\n");
}

}  // namespace

const PlanFormat kVllmMapping{"vllm-mapping", "vLLM EPLB initial mapping, JSON lines", is_mapping, read_mapping,
                              write_mapping};
const PlanFormat kVllmEpRanks{"vllm-ep-ranks", "vLLM expert placement file, JSON: one rank an expert, all layers alike",
                              is_ep_ranks, read_ep_ranks, write_ep_ranks};

}  // namespace coterie
