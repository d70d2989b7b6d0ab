// What vLLM records: the routed experts of requests (enable_return_routed_experts), saved as one .npy a request, and
// EPLB's load statistics, JSON lines.
#include "placement/files/json_lines.hpp"
#include "placement/files/npy_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/recorded.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

bool is_routed_experts(const std::filesystem::path& path) {
  if (!is_npy(path)) return false;
  try {
    const NpyFile file(path);
    return file.is_integer() && file.shape().size() == 3;
  } catch (const InputError&) {
    return false;
  }
}

AnyTrace read_routed_experts(std::span<const std::filesystem::path> paths, const FormatOptions& options) {
  RecordedChoices all;
  for (std::size_t request = 0; request < paths.size(); ++request) {
    const NpyFile file(paths[request]);
    const Shape& shape = file.shape();
    const bool first = request == 0;
    if (shape.size() != 3 || (!first && (shape[1] != all.layers || shape[2] != all.width)) || shape[1] < 1 ||
        shape[2] < 1)
      throw bad_field(paths[request].string(), "shape", to_string(shape),
                      first ? "[tokens, layers, k]"
                            : "[tokens, " + std::to_string(all.layers) + ", " + std::to_string(all.width) +
                                  "], as in the first file");
    all.layers = static_cast<int>(shape[1]);
    all.width = static_cast<int>(shape[2]);
    const auto ids = file.integers();
    all.experts.insert(all.experts.end(), ids.begin(), ids.end());
    for (std::int64_t t = 0; t < shape[0]; ++t) {
      all.sequence.push_back(static_cast<std::int32_t>(request));
      all.position.push_back(static_cast<std::int32_t>(t));
    }
  }
  return trace_of(all, options, paths.front().string());
}

bool is_load_stats(const std::filesystem::path& path) {
  return first_line_text(path, "record_type").starts_with("eplb_load");
}

/// Adds a record's load, a row for each layer and a number for each physical slot, to the slots' experts.
void add_record(const JsonView& record, RecordedCounts& all) {
  const JsonView load = record["expert_load"];
  const JsonView map = record["p2l_map"];
  if (load.size() != map.size()) throw load.error("a row for each of p2l_map's " + std::to_string(map.size()));
  std::vector<std::vector<int>> experts;
  int largest = 0;
  for (std::size_t l = 0; l < map.size(); ++l) {
    experts.push_back(map[l].integers(0, 65534));
    for (const int e : experts.back()) largest = std::max(largest, e);
    if (load[l].size() != experts.back().size()) throw load[l].error(std::to_string(experts.back().size()) + " slots");
  }
  if (all.layers == 0) {
    all.layers = static_cast<int>(map.size());
    all.num_experts = largest + 1;
  }
  if (static_cast<std::size_t>(all.layers) != map.size() || all.num_experts != largest + 1)
    throw map.error("the layers and experts of the first record");
  const std::size_t begin = all.counts.size();
  all.counts.resize(begin + static_cast<std::size_t>(all.layers) * all.num_experts);
  for (std::size_t l = 0; l < experts.size(); ++l)
    for (std::size_t s = 0; s < experts[l].size(); ++s) {
      const double n = load[l][s].number();
      if (!(n >= 0 && n < 1e15) || n != std::floor(n)) throw load[l][s].error("a count");
      all.counts[begin + l * all.num_experts + experts[l][s]] += static_cast<std::int64_t>(n);
    }
}

AnyTrace read_load_stats(std::span<const std::filesystem::path> paths, const FormatOptions& options) {
  RecordedCounts all;
  for (const auto& path : paths)
    for_each_json_line(path, [&](const JsonView& record) {
      if (record["record_type"].text() == "eplb_load_stats") add_record(record, all);
    });
  return load_of(all, options, paths.front().string());
}

}  // namespace

const TraceFormat kVllmRoutedExperts{"vllm-routed-experts",
                                     "vLLM routed_experts, a .npy (tokens, layers, k) for each request",
                                     is_routed_experts, read_routed_experts, nullptr};
const TraceFormat kVllmLoadStats{"vllm-load-stats", "vLLM EPLB load statistics, JSON lines: counts", is_load_stats,
                                 read_load_stats, nullptr};

}  // namespace coterie
