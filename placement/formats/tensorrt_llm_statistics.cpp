// TensorRT-LLM's expert statistics (EXPERT_STATISTIC_PATH): a folder of meta_info.json and, for each rank, counts
// rank*.safetensors or the choices themselves, rank*_raw.safetensors or token_selected_experts_rank*.safetensors. Keys
// are "{iteration}_{layer}".
#include "placement/files/json_view.hpp"
#include "placement/files/tensor_values.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/recorded.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <map>
#include <regex>
#include <set>

namespace coterie {
namespace {

namespace fs = std::filesystem;

bool recognises(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path / "meta_info.json", ignored);
}

std::vector<fs::path> files_like(const fs::path& folder, const std::string& pattern) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder))
    if (std::regex_match(entry.path().filename().string(), std::regex(pattern))) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

struct Key {
  int iteration = 0;
  int layer = 0;
};

Key key_of(const std::string& name, const std::string& where) {
  std::smatch match;
  if (!std::regex_match(name, match, std::regex("([0-9]{1,9})_([0-9]{1,9})")))
    throw bad_field(where, "tensor name", "'" + name + "'", "'{iteration}_{layer}'");
  return {std::stoi(match[1]), std::stoi(match[2])};
}

/// Iterations -> layers -> tensor.
using Iterations = std::map<int, std::map<int, const TensorView*>>;

Iterations iterations_of(const SafetensorsFile& file) {
  Iterations all;
  for (const auto& [name, tensor] : file.tensors()) {
    const Key key = key_of(name, file.path().string());
    all[key.iteration][key.layer] = &tensor;
  }
  return all;
}

std::vector<int> layers_of(const std::map<int, const TensorView*>& iteration) {
  std::vector<int> layers;
  layers.reserve(iteration.size());
  for (const auto& [layer, tensor] : iteration) layers.push_back(layer);
  return layers;
}

void expect_layers(const SafetensorsFile& file, int iteration, const std::vector<int>& found,
                   const std::vector<int>& expected) {
  if (found != expected)
    throw bad_field(file.path().string(), "iteration " + std::to_string(iteration),
                    std::to_string(found.size()) + " layers",
                    "the same " + std::to_string(expected.size()) + " layers as in the others");
}

/// The tokens of an iteration: its layers' choices side by side.
void add_iteration(const SafetensorsFile& file, int iteration, const std::map<int, const TensorView*>& layers,
                   RecordedChoices& all) {
  std::vector<std::vector<std::int32_t>> columns;
  std::int64_t tokens = -1;
  for (const auto& [layer, tensor] : layers) {
    const std::string where =
        file.path().string() + ": tensor " + std::to_string(iteration) + "_" + std::to_string(layer);
    if (tokens < 0 && tensor->shape.size() == 2) tokens = tensor->shape[0];
    if (tensor->shape != Shape{tokens, all.width})
      throw bad_field(where, "shape", to_string(tensor->shape),
                      "[" + std::to_string(tokens) + ", " + std::to_string(all.width) +
                          "], the same tokens at every layer of an iteration");
    columns.push_back(integers_of(*tensor, where));
  }
  for (std::int64_t t = 0; t < tokens; ++t)
    for (const auto& column : columns)
      all.experts.insert(all.experts.end(), column.begin() + t * all.width, column.begin() + (t + 1) * all.width);
}

Trace read_choices(const std::vector<fs::path>& files, int experts, int top_k, const FormatOptions& options) {
  RecordedChoices all;
  all.num_experts = experts;
  all.width = top_k;
  for (const auto& path : files) {
    const SafetensorsFile file(path);
    for (const auto& [iteration, layers] : iterations_of(file)) {
      if (all.layer_ids.empty()) all.layer_ids = layers_of(layers);
      expect_layers(file, iteration, layers_of(layers), all.layer_ids);
      add_iteration(file, iteration, layers, all);
    }
  }
  all.layers = static_cast<int>(all.layer_ids.size());
  if (options.note)
    options.note(files.front().string() +
                 ": a rank's tokens are taken to stand in the same order at every layer; which "
                 "sequence they are of is not recorded");
  return trace_of(all, options, files.front().string());
}

LoadTrace read_counts(const std::vector<fs::path>& files, int experts, int top_k, const FormatOptions& options) {
  std::map<int, std::map<int, std::vector<std::int64_t>>> sums;  // iterations -> layers -> experts
  std::set<int> layer_ids;
  for (const auto& path : files) {
    const SafetensorsFile file(path);
    for (const auto& [iteration, layers] : iterations_of(file))
      for (const auto& [layer, tensor] : layers) {
        const std::string where = path.string() + ": tensor " + std::to_string(iteration) + "_" + std::to_string(layer);
        if (tensor->shape != Shape{experts})
          throw bad_field(where, "shape", to_string(tensor->shape), to_string(Shape{experts}));
        auto& sum = sums[iteration][layer];
        sum.resize(static_cast<std::size_t>(experts));
        const auto counts = integers_of(*tensor, where);
        for (std::size_t e = 0; e < counts.size(); ++e) sum[e] += counts[e];
        layer_ids.insert(layer);
      }
  }
  RecordedCounts all;
  all.layer_ids.assign(layer_ids.begin(), layer_ids.end());
  all.layers = static_cast<int>(layer_ids.size());
  all.num_experts = experts;
  all.top_k = top_k;
  for (auto& [iteration, layers] : sums)
    for (const int layer : layer_ids) {
      auto& sum = layers[layer];
      sum.resize(static_cast<std::size_t>(experts));
      all.counts.insert(all.counts.end(), sum.begin(), sum.end());
    }
  return load_of(all, options, files.front().parent_path().string());
}

AnyTrace read(std::span<const fs::path> paths, const FormatOptions& options) {
  if (paths.size() != 1 || !fs::is_directory(paths.front()))
    throw InputError(paths.front().string() + ": expected one folder, the EXPERT_STATISTIC_PATH of TensorRT-LLM");
  const fs::path& folder = paths.front();
  const std::string where = (folder / "meta_info.json").string();
  const nlohmann::json meta = read_json(folder / "meta_info.json");
  const JsonView root(meta, where);
  const auto experts = static_cast<int>(root["num_experts"].integer(1, 65535));
  const auto top_k = static_cast<int>(root["num_experts_per_token"].integer(1, experts));
  for (const char* const pattern : {"rank[0-9]+_raw\\.safetensors", "token_selected_experts_rank[0-9]+\\.safetensors"})
    if (const auto files = files_like(folder, pattern); !files.empty())
      return read_choices(files, experts, top_k, options);
  const auto files = files_like(folder, "rank[0-9]+\\.safetensors");
  if (files.empty()) throw bad_field(folder.string(), "rank*.safetensors", "none", "one for each rank");
  return read_counts(files, experts, top_k, options);
}

}  // namespace

const TraceFormat kTensorrtLlmStatistics{"tensorrt-llm-statistics",
                                         "TensorRT-LLM EXPERT_STATISTIC_PATH, a folder: choices, or counts", recognises,
                                         read, nullptr};

}  // namespace coterie
