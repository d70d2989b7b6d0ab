// vLLM-Ascend's expert map (expert_map_path): JSON with a list of experts for each device of each MoE layer, as many on
// every device.
#include "placement/files/json_view.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/slot_rows.hpp"
#include "placement/input_error.hpp"

namespace coterie {
namespace {

bool recognises(const std::filesystem::path& path) {
  try {
    const nlohmann::json file = read_json(path);
    return file.is_object() && file.contains("moe_layer_count") && file.contains("layer_list");
  } catch (const InputError&) {
    return false;
  }
}

/// A layer's slots, device by device.
std::vector<int> slots_of(const JsonView& layer, std::size_t devices, std::size_t per_device) {
  const JsonView list = layer["device_list"];
  if (list.size() != devices) throw list.error(std::to_string(devices) + " devices, as in the first layer");
  std::vector<int> slots;
  for (std::size_t d = 0; d < devices; ++d) {
    const JsonView experts = list[d]["device_expert"];
    if (experts.size() != per_device)
      throw experts.error(std::to_string(per_device) + " experts, as on the first device");
    const auto ids = experts.integers(0, 65534);
    slots.insert(slots.end(), ids.begin(), ids.end());
  }
  return slots;
}

Plan read(const std::filesystem::path& path, const FormatOptions& options) {
  const std::string where = path.string();
  const nlohmann::json file = read_json(path);
  const JsonView root(file, where);
  const JsonView layers = root["layer_list"];
  if (root["moe_layer_count"].integer(1, 1 << 20) != static_cast<std::int64_t>(layers.size()))
    throw root["moe_layer_count"].error("the length of layer_list, " + std::to_string(layers.size()));
  const JsonView first = layers[0]["device_list"];
  const std::size_t devices = first.size();
  const std::size_t per_device = first[0]["device_expert"].size();
  SlotRows rows;
  for (std::size_t l = 0; l < layers.size(); ++l) rows.push_back(slots_of(layers[l], devices, per_device));

  FormatOptions with_ranks = options;
  if (!with_ranks.topology) with_ranks.topology = Topology{{static_cast<int>(devices)}};
  if (static_cast<std::size_t>(with_ranks.topology->ranks()) != devices)
    throw first.error(std::to_string(with_ranks.topology->ranks()) + " devices, as --ranks says");
  auto layer_ids = moe_layers(rows.size(), options, where);
  return plan_of_slots(std::move(rows), std::move(layer_ids), with_ranks, where);
}

void write(const std::filesystem::path& path, const Plan& plan, const FormatOptions& options) {
  const SlotRows rows = full_slots(plan, options, "vLLM-Ascend");
  nlohmann::ordered_json layers;
  for (std::size_t l = 0; l < rows.size(); ++l) {
    nlohmann::ordered_json devices;
    for (int r = 0; r < plan.ranks(); ++r) {
      const auto begin = rows[l].begin() + static_cast<std::ptrdiff_t>(r) * plan.slots_per_rank;
      devices.push_back({{"device_id", r}, {"device_expert", std::vector<int>(begin, begin + plan.slots_per_rank)}});
    }
    layers.push_back({{"layer_id", l}, {"device_count", plan.ranks()}, {"device_list", devices}});
  }
  replace_file(path, nlohmann::ordered_json{{"moe_layer_count", rows.size()}, {"layer_list", layers}}.dump() + "\n");
}

}  // namespace

const PlanFormat kVllmAscendPlan{"vllm-ascend", "vLLM-Ascend expert_map_path, JSON", recognises, read, write};

}  // namespace coterie
