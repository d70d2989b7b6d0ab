// What DeepSeek's EPLB makes: phy2log (MoE layers, slots), as a .npy file or a JSON list of lists.
#include "placement/files/json_view.hpp"
#include "placement/files/npy_file.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/slot_rows.hpp"
#include "placement/input_error.hpp"

namespace coterie {
namespace {

bool is_list_of_lists(const std::filesystem::path& path) {
  try {
    const nlohmann::json file = read_json(path);
    return file.is_array() && !file.empty() && file.front().is_array();
  } catch (const InputError&) {
    return false;
  }
}

SlotRows rows_of_npy(const std::filesystem::path& path) {
  const NpyFile file(path);
  const Shape& shape = file.shape();
  if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1)
    throw bad_field(path.string(), "shape", to_string(shape), "[layers, slots]");
  const auto values = file.integers();
  SlotRows rows;
  for (std::int64_t l = 0; l < shape[0]; ++l)
    rows.emplace_back(values.begin() + l * shape[1], values.begin() + (l + 1) * shape[1]);
  return rows;
}

SlotRows rows_of_json(const std::filesystem::path& path) {
  const std::string where = path.string();
  const nlohmann::json file = read_json(path);
  const JsonView root(file, where);
  SlotRows rows;
  for (std::size_t l = 0; l < root.size(); ++l) rows.push_back(root[l].integers(0, 65534));
  return rows;
}

Plan read(const std::filesystem::path& path, const FormatOptions& options) {
  SlotRows rows = is_npy(path) ? rows_of_npy(path) : rows_of_json(path);
  auto layer_ids = moe_layers(rows.size(), options, path.string());
  return plan_of_slots(std::move(rows), std::move(layer_ids), options, path.string());
}

void write(const std::filesystem::path& path, const Plan& plan, const FormatOptions& options) {
  const SlotRows rows = full_slots(plan, options, "EPLB's phy2log");
  if (path.extension() != ".npy") {
    replace_file(path, nlohmann::json(rows).dump() + "\n");
    return;
  }
  std::vector<std::int64_t> values;
  for (const auto& row : rows) values.insert(values.end(), row.begin(), row.end());
  write_npy(path, {plan.layers(), static_cast<std::int64_t>(rows.front().size())}, values);
}

}  // namespace

const PlanFormat kEplbPlan{"eplb", "DeepSeek EPLB phy2log (MoE layers, slots), .npy or a JSON list of lists",
                           is_list_of_lists, read, write};

}  // namespace coterie
