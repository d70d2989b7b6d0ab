#include "placement/formats/formats.hpp"

#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"

#include <array>
#include <fstream>

namespace coterie {
namespace {

const std::filesystem::path& only(std::span<const std::filesystem::path> paths) {
  if (paths.size() != 1)
    throw InputError(paths[1].string() + ": one file at a time; `coterie plan` takes several traces with --trace each");
  return paths.front();
}

std::string format_of(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return "";
  try {
    const SafetensorsFile file(path);
    const auto format = file.metadata().find("format");
    return format == file.metadata().end() ? "" : format->second;
  } catch (const InputError&) {
    return path.extension() == ".safetensors" ? "coterie.trace/1" : "";  // reading it says what is wrong with it
  }
}

bool is_plan(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string start(200, '\0');
  in.read(start.data(), static_cast<std::streamsize>(start.size()));
  return start.find("coterie.plan/") != std::string::npos;
}

void write_choices(const std::filesystem::path& path, const AnyTrace& trace, const FormatOptions&) {
  if (const auto* const choices = std::get_if<Trace>(&trace)) return write_trace(path, *choices);
  throw InputError(path.string() +
                   ": the input holds counts, not the experts of each token, so it can't become a coterie-trace; "
                   "--to coterie-load can hold it, for `coterie plan --objective load`");
}

/// Counts of each sequence; of all tokens where the trace doesn't say which sequence they are of.
LoadTrace load_of(const Trace& trace) {
  LoadTrace load{trace.model, trace.num_experts, trace.top_k, trace.layer_ids, {}};
  const std::size_t row = static_cast<std::size_t>(trace.layers()) * trace.num_experts;
  for (std::size_t t = 0; t < static_cast<std::size_t>(trace.tokens()); ++t) {
    const bool starts = t == 0 || (!trace.sequence.empty() && trace.sequence[t] != trace.sequence[t - 1]);
    if (starts) load.counts.resize(load.counts.size() + row);
    std::uint32_t* const counts = &load.counts[load.counts.size() - row];
    for (int l = 0; l < trace.layers(); ++l)
      for (int i = 0; i < trace.top_k; ++i) {
        const std::uint16_t e = trace.experts[(t * trace.layers() + l) * trace.top_k + i];
        if (e != Trace::kNoExpert) ++counts[static_cast<std::size_t>(l) * trace.num_experts + e];
      }
  }
  return load;
}

void write_load(const std::filesystem::path& path, const AnyTrace& trace, const FormatOptions&) {
  const auto* const choices = std::get_if<Trace>(&trace);
  write_load_trace(path, choices != nullptr ? load_of(*choices) : std::get<LoadTrace>(trace));
}

}  // namespace

const TraceFormat kCoterieTrace{
    "coterie-trace", "coterie.trace/1, safetensors: the experts of every token",
    [](const std::filesystem::path& path) { return format_of(path).starts_with("coterie.trace/"); },
    [](std::span<const std::filesystem::path> paths, const FormatOptions&) {
      return AnyTrace(read_trace(only(paths)));
    },
    write_choices};
const TraceFormat kCoterieLoad{
    "coterie-load", "coterie.load/1, safetensors: counts, for --objective load",
    [](const std::filesystem::path& path) { return format_of(path).starts_with("coterie.load/"); },
    [](std::span<const std::filesystem::path> paths, const FormatOptions&) {
      return AnyTrace(read_load_trace(only(paths)));
    },
    write_load};
const PlanFormat kCoteriePlan{
    "coterie-plan", "coterie.plan/1, JSON", is_plan,
    [](const std::filesystem::path& path, const FormatOptions&) { return read_plan(path); },
    [](const std::filesystem::path& path, const Plan& plan, const FormatOptions&) { write_plan(path, plan); }};

std::span<const TraceFormat> trace_formats() {
  static const std::array all{kCoterieTrace,          kCoterieLoad,       kSglangRecord,
                              kTensorrtLlmStatistics, kVllmRoutedExperts, kVllmLoadStats,
                              kMegatronTrace,         kHfRouterLogits,    kExflowTrace};
  return all;
}

std::span<const PlanFormat> plan_formats() {
  static const std::array all{kCoteriePlan, kSglangPlan,     kTensorrtLlmPlan, kVllmMapping,
                              kVllmEpRanks, kVllmAscendPlan, kEplbPlan,        kExflowPlan};
  return all;
}

}  // namespace coterie
