// TensorRT-LLM's expert load balancer configuration, YAML: num_slots, initial_global_assignments (layer of the model ->
// expert of each slot), layer_updates_per_iter. Also where it stands inside a larger file's moe_config.load_balancer.
#include "placement/files/json_view.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/slot_rows.hpp"
#include "placement/input_error.hpp"

#include <yaml-cpp/yaml.h>

#include <fstream>
#include <map>

namespace coterie {
namespace {

constexpr const char* kAssignments = "initial_global_assignments";

YAML::Node load_balancer_in(const YAML::Node& root) {
  if (!root.IsMap()) return root;
  if (const YAML::Node moe = root["moe_config"]; moe && moe.IsMap() && moe["load_balancer"])
    return moe["load_balancer"];
  return root["moe_load_balancer"] ? root["moe_load_balancer"] : root;
}

bool recognises(const std::filesystem::path& path) {
  if (path.extension() != ".yaml" && path.extension() != ".yml") return false;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.find(kAssignments) != std::string::npos) return true;
  return false;
}

int integer(const YAML::Node& node, const std::string& where, const std::string& field, int most) {
  int value = -1;
  if (!node || !node.IsScalar() || !YAML::convert<int>::decode(node, value) || value < 0 || value > most)
    throw bad_field(where, field, node && node.IsScalar() ? "'" + node.Scalar() + "'" : "something else",
                    "an integer from 0 to " + std::to_string(most));
  return value;
}

Plan read_checked(const std::filesystem::path& path, const FormatOptions& options) {
  const std::string where = path.string();
  const YAML::Node balancer = load_balancer_in(YAML::Load(read_text(path)));
  const YAML::Node assignments = balancer.IsMap() ? balancer[kAssignments] : YAML::Node();
  if (!assignments.IsDefined() || !assignments.IsMap())
    throw bad_field(where, kAssignments, "nothing", "a map of layers to slots; without it the file places nothing");
  const int slots = integer(balancer["num_slots"], where, "num_slots", 1 << 20);
  std::map<int, std::vector<int>> layers;
  for (const auto& entry : assignments) {
    const int layer = integer(entry.first, where, std::string("a layer of ") + kAssignments, 1 << 20);
    const std::string field = std::string(kAssignments) + "." + std::to_string(layer);
    if (!entry.second.IsSequence() || entry.second.size() != static_cast<std::size_t>(slots))
      throw bad_field(where, field,
                      entry.second.IsSequence() ? std::to_string(entry.second.size()) + " slots" : "no list",
                      std::to_string(slots) + " slots, as num_slots says");
    if (layers.contains(layer)) throw bad_field(where, field, "the layer twice", "each layer once");
    for (const auto& slot : entry.second) layers[layer].push_back(integer(slot, where, field, 65534));
  }
  SlotRows rows;
  std::vector<int> layer_ids;
  for (auto& [layer, row] : layers) {
    layer_ids.push_back(layer);
    rows.push_back(std::move(row));
  }
  return plan_of_slots(std::move(rows), std::move(layer_ids), options, where);
}

Plan read(const std::filesystem::path& path, const FormatOptions& options) {
  try {
    return read_checked(path, options);
  } catch (const YAML::Exception& e) {
    throw InputError(path.string() + ": not valid YAML: " + e.what());
  }
}

void write(const std::filesystem::path& path, const Plan& plan, const FormatOptions& options) {
  const SlotRows rows = full_slots(plan, options, "TensorRT-LLM");
  std::string text = "num_slots: " + std::to_string(rows.front().size()) + "\n" + kAssignments + ":\n";
  for (int l = 0; l < plan.layers(); ++l) {
    text += "  " + std::to_string(plan.layer_ids[l]) + ": [";
    for (std::size_t s = 0; s < rows[l].size(); ++s) text += (s == 0 ? "" : ", ") + std::to_string(rows[l][s]);
    text += "]\n";
  }
  replace_file(path, text + "layer_updates_per_iter: 0\n");
}

}  // namespace

const PlanFormat kTensorrtLlmPlan{"tensorrt-llm", "TensorRT-LLM moe_config.load_balancer, YAML", recognises, read,
                                  write};

}  // namespace coterie
