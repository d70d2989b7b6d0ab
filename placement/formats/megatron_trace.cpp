// Megatron-Core's router trace (--moe-routing-trace-path): JSON lines, a record for each step and layer of a rank, with
// the experts of all its tokens.
#include "placement/files/json_lines.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/recorded.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace coterie {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_of(const fs::path& path) {
  std::vector<fs::path> files;
  if (!fs::is_directory(path)) return {path};
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("router_trace_rank") && name.ends_with(".jsonl")) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool recognises(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return false;
  const auto files = files_of(path);
  const auto first = files.empty() ? std::nullopt : first_json_line(files.front());
  return first && first->is_object() && first->contains("top_indices");
}

/// A rank's step: for each layer the records that it made, one a micro-batch.
struct Step {
  std::int64_t number = -1;
  std::map<int, std::vector<std::vector<std::int32_t>>> layers;  // -> micro-batches -> (tokens, k)
};

class Reader {
 public:
  explicit Reader(const FormatOptions& options) : options_(options) {}

  void read(const fs::path& path) {
    where_ = path.string();
    for_each_json_line(path, [&](const JsonView& record) { take(record); });
    finish_step();
  }

  [[nodiscard]] Trace trace(const std::string& where) {
    all_.layers = static_cast<int>(all_.layer_ids.size());
    if (options_.note) {
      if (mtp_ > 0) options_.note(where + ": " + std::to_string(mtp_) + " records of multi-token prediction left out");
      if (torn_ > 0) options_.note(where + ": " + std::to_string(torn_) + " steps left out that lack layers or tokens");
      options_.note(where +
                    ": a rank's tokens are taken to stand in the same order at every layer; which sequence they "
                    "are of is not recorded");
    }
    return trace_of(all_, options_, where);
  }

 private:
  void take(const JsonView& record) {
    if (record["block"].text() != "decoder") {
      ++mtp_;
      return;
    }
    const std::int64_t number = record["step"].integer(0, 1LL << 60);
    if (number != step_.number) finish_step();
    step_.number = number;
    const auto layer = static_cast<int>(record["layer"].integer(0, 1 << 20));
    const auto k = static_cast<int>(record["topk"].integer(1, 65535));
    if (all_.width != 0 && k != all_.width) throw record["topk"].error(std::to_string(all_.width) + ", as before");
    all_.width = k;
    const JsonView rows = record["top_indices"];
    if (record["num_tokens"].integer(0, 1LL << 40) != static_cast<std::int64_t>(rows.size()))
      throw record["num_tokens"].error("the length of top_indices, " + std::to_string(rows.size()));
    auto& choices = step_.layers[layer].emplace_back();
    for (std::size_t t = 0; t < rows.size(); ++t) {
      const auto ids = rows[t].integers(-1, 65534);
      if (ids.size() != static_cast<std::size_t>(k)) throw rows[t].error(std::to_string(k) + " experts");
      choices.insert(choices.end(), ids.begin(), ids.end());
    }
  }

  /// Puts the layers of the step side by side. A step that a killed job left torn is left out.
  void finish_step() {
    const Step step = std::exchange(step_, {});
    if (step.layers.empty()) return;
    std::vector<int> ids;
    ids.reserve(step.layers.size());
    for (const auto& [layer, batches] : step.layers) ids.push_back(layer);
    if (all_.layer_ids.empty()) all_.layer_ids = ids;
    const bool is_part = std::includes(all_.layer_ids.begin(), all_.layer_ids.end(), ids.begin(), ids.end());
    if (!is_part)
      throw bad_field(where_, "layers of step " + std::to_string(step.number), std::to_string(ids.back()),
                      "those of the first step; ranks of a pipeline hold different layers and can't be joined");
    const auto& first = step.layers.begin()->second;
    const bool whole =
        ids == all_.layer_ids && std::all_of(step.layers.begin(), step.layers.end(), [&](const auto& layer) {
          return std::equal(first.begin(), first.end(), layer.second.begin(), layer.second.end(),
                            [](const auto& a, const auto& b) { return a.size() == b.size(); });
        });
    if (!whole) {
      ++torn_;
      return;
    }
    for (std::size_t batch = 0; batch < first.size(); ++batch)
      for (std::size_t at = 0; at < first[batch].size(); at += static_cast<std::size_t>(all_.width))
        for (const auto& [layer, batches] : step.layers)
          all_.experts.insert(all_.experts.end(), batches[batch].begin() + static_cast<std::ptrdiff_t>(at),
                              batches[batch].begin() + static_cast<std::ptrdiff_t>(at) + all_.width);
  }

  const FormatOptions& options_;
  std::string where_;
  Step step_;
  RecordedChoices all_;
  int mtp_ = 0;
  int torn_ = 0;
};

AnyTrace read(std::span<const fs::path> paths, const FormatOptions& options) {
  Reader reader(options);
  for (const auto& path : paths) {
    const auto files = files_of(path);
    if (files.empty()) throw bad_field(path.string(), "router_trace_rank*.jsonl", "none", "one for each rank");
    for (const auto& file : files) reader.read(file);
  }
  return reader.trace(paths.front().string());
}

}  // namespace

const TraceFormat kMegatronTrace{"megatron-trace", "Megatron-Core router_trace_rank*.jsonl, files or their folder",
                                 recognises, read, nullptr};

}  // namespace coterie
