// ExFlow's files: a trace is a .npy of one expert for each token and MoE layer, a solution a CSV of "Expert,Node",
// where Expert is layer * experts + expert and Node the GPU's number.
#include "placement/files/npy_file.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/recorded.hpp"
#include "placement/formats/slot_rows.hpp"
#include "placement/input_error.hpp"

#include <charconv>
#include <fstream>
#include <map>

namespace coterie {
namespace {

constexpr std::string_view kHeader = "Expert,Node";

std::string_view without_return(std::string_view line) {
  return line.ends_with('\r') ? line.substr(0, line.size() - 1) : line;
}

AnyTrace read_trace_file(std::span<const std::filesystem::path> paths, const FormatOptions& options) {
  RecordedChoices all;
  all.width = 1;
  all.gate_order = GateOrder::descending;
  for (const auto& path : paths) {
    const NpyFile file(path);
    const Shape& shape = file.shape();
    if (shape.size() != 2 || shape[1] < 1 || (all.layers != 0 && shape[1] != all.layers))
      throw bad_field(path.string(), "shape", to_string(shape), "[tokens, layers], the same layers in every file");
    all.layers = static_cast<int>(shape[1]);
    const auto ids = file.integers();
    all.experts.insert(all.experts.end(), ids.begin(), ids.end());
  }
  return trace_of(all, options, paths.front().string());
}

bool is_solution(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  return std::getline(in, line) && without_return(line) == kHeader;
}

/// The two numbers of a line.
std::pair<int, int> numbers(std::string_view line, const std::string& where) {
  std::pair<int, int> found{-1, -1};
  const char* const end = line.data() + line.size();
  const auto first = std::from_chars(line.data(), end, found.first);
  const bool comma = first.ec == std::errc() && first.ptr != end && *first.ptr == ',';
  const auto second = comma ? std::from_chars(first.ptr + 1, end, found.second) : first;
  if (!comma || second.ec != std::errc() || second.ptr != end || found.first < 0 || found.second < 0 ||
      found.second > 65535)
    throw bad_field(where, "line", "'" + std::string(line.substr(0, 40)) + "'", "two numbers, expert and GPU");
  return found;
}

Plan read_solution(const std::filesystem::path& path, const FormatOptions& options) {
  const std::string where = path.string();
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line) || without_return(line) != kHeader)
    throw bad_field(where, "first line", "'" + line.substr(0, 40) + "'", "'Expert,Node'");
  std::map<int, int> rank_of;
  for (int number = 2; std::getline(in, line); ++number) {
    if (without_return(line).empty()) continue;
    const std::string here = where + ":" + std::to_string(number);
    const auto [expert, rank] = numbers(without_return(line), here);
    if (!rank_of.emplace(expert, rank).second)
      throw bad_field(here, "Expert", std::to_string(expert) + " again", "each expert once");
  }
  const std::size_t total = rank_of.size();
  const std::size_t layers = options.layer_ids.size();
  if (options.experts == 0 && layers == 0)
    throw bad_field(where, "experts of a layer", "nothing", "--experts or --layer-ids: the format doesn't say it");
  const std::size_t experts = options.experts > 0 ? static_cast<std::size_t>(options.experts) : total / layers;
  if (experts == 0 || total == 0 || total % experts != 0)
    throw bad_field(where, "experts", std::to_string(total),
                    "a multiple of the experts of a layer, " + std::to_string(experts));
  if (rank_of.rbegin()->first != static_cast<int>(total) - 1)
    throw bad_field(where, "Expert", std::to_string(rank_of.rbegin()->first),
                    "0 to " + std::to_string(total - 1) + ", each once");
  SlotRows rows(total / experts);
  for (const auto& [expert, rank] : rank_of) rows[static_cast<std::size_t>(expert) / experts].push_back(rank);
  FormatOptions top_one = options;
  if (top_one.top_k == 0) top_one.top_k = 1;  // ExFlow is for top-1 models
  return plan_of_ranks(rows, moe_layers(rows.size(), options, where), top_one, where);
}

void write_solution(const std::filesystem::path& path, const Plan& plan, const FormatOptions&) {
  const SlotRows rows = sole_ranks(plan, "ExFlow's solution");
  std::string text = std::string(kHeader) + "\r\n";
  for (std::size_t l = 0; l < rows.size(); ++l)
    for (std::size_t e = 0; e < rows[l].size(); ++e)
      text += std::to_string(l * rows[l].size() + e) + "," + std::to_string(rows[l][e]) + "\r\n";
  replace_file(path, text);
}

}  // namespace

const TraceFormat kExflowTrace{"exflow-trace", "ExFlow trace, .npy (tokens, layers): one expert each", nullptr,
                               read_trace_file, nullptr};
const PlanFormat kExflowPlan{"exflow", "ExFlow solution, CSV", is_solution, read_solution, write_solution};

}  // namespace coterie
