// SGLang's expert location for --init-expert-location: {"physical_to_logical_map": (layers of the model, slots)}. Dense
// layers have rows too, which SGLang doesn't look at.
#include "placement/files/json_view.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/slot_rows.hpp"
#include "placement/input_error.hpp"

#include <algorithm>

namespace coterie {
namespace {

constexpr const char* kMap = "physical_to_logical_map";

bool recognises(const std::filesystem::path& path) {
  try {
    const nlohmann::json file = read_json(path);
    return file.is_object() && file.contains(kMap);
  } catch (const InputError&) {
    return false;
  }
}

Plan read(const std::filesystem::path& path, const FormatOptions& options) {
  const std::string where = path.string();
  const nlohmann::json file = read_json(path);
  const JsonView root(file, where);
  if (root.has("logical_count"))
    throw bad_field(where, "logical_count", "counts", std::string(kMap) + "; counts are no placement");
  const JsonView map = root[kMap];
  SlotRows rows;
  std::vector<int> layer_ids;
  for (std::size_t l = 0; l < map.size(); ++l) {
    if (std::count(options.dense_layers.begin(), options.dense_layers.end(), static_cast<int>(l)) > 0) continue;
    rows.push_back(map[l].integers(0, 65534));
    layer_ids.push_back(static_cast<int>(l));
  }
  if (options.hidden_layers > 0 && static_cast<std::size_t>(options.hidden_layers) != map.size())
    throw bad_field(where, kMap, std::to_string(map.size()) + " rows",
                    std::to_string(options.hidden_layers) + ", one for each layer of the model, dense ones too");
  if (!options.layer_ids.empty() && options.layer_ids != layer_ids)
    throw bad_field(where, kMap, std::to_string(layer_ids.size()) + " MoE layers, by --dense-layers",
                    "those of --layer-ids");
  return plan_of_slots(std::move(rows), std::move(layer_ids), options, where);
}

void write(const std::filesystem::path& path, const Plan& plan, const FormatOptions& options) {
  const SlotRows rows = full_slots(plan, options, "SGLang");
  const int layers = options.hidden_layers > 0 ? options.hidden_layers : plan.layer_ids.back() + 1;
  if (layers <= plan.layer_ids.back())
    throw bad_field("plan", "model.layer_ids", std::to_string(plan.layer_ids.back()),
                    "layers below --num-hidden-layers " + std::to_string(layers));
  if (options.hidden_layers == 0 && options.note)
    options.note(path.string() + ": " + std::to_string(layers) +
                 " rows, the model's layers as far as the plan knows them; --num-hidden-layers sets it");
  std::vector<int> dense(rows.front().size());
  for (std::size_t s = 0; s < dense.size(); ++s) dense[s] = static_cast<int>(s) % plan.experts;
  // By hand, so that a layer is a line. No other key: SGLang passes all of them on as arguments.
  std::string text = std::string("{\"") + kMap + "\": [";
  for (int layer = 0; layer < layers; ++layer) {
    const auto at = std::find(plan.layer_ids.begin(), plan.layer_ids.end(), layer);
    const auto& row = at == plan.layer_ids.end() ? dense : rows[at - plan.layer_ids.begin()];
    text += (layer == 0 ? "\n" : ",\n") + nlohmann::json(row).dump();
  }
  replace_file(path, text + "\n]}\n");
  if (options.note)
    options.note("start SGLang with --init-expert-location " + path.string() + " --ep-size " +
                 std::to_string(plan.ranks()) + " --ep-num-redundant-experts " +
                 std::to_string(static_cast<int>(dense.size()) - plan.experts));
}

}  // namespace

const PlanFormat kSglangPlan{"sglang", "SGLang --init-expert-location, JSON", recognises, read, write};

}  // namespace coterie
