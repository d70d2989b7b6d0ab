#include "placement/trace/load_trace.hpp"

#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"
#include "placement/trace/trace_header.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace coterie {
namespace {

constexpr const char* kFormat = "coterie.load/1";

TraceHeader header_of(const LoadTrace& trace) {
  return {trace.model, trace.num_experts, trace.top_k, trace.layer_ids};
}

template <class From>
std::vector<std::uint32_t> widened(std::span<const std::byte> bytes) {
  std::vector<From> values(bytes.size() / sizeof(From));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(From));
  return {values.begin(), values.end()};
}

}  // namespace

bool is_load_trace(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  const auto format = file.metadata().find("format");
  return format != file.metadata().end() && format->second == kFormat;
}

LoadTrace read_load_trace(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  const TraceHeader header = read_header(file, kFormat);
  LoadTrace trace{header.model, header.num_experts, header.top_k, header.layer_ids, {}};

  const TensorView& view = file.at("counts");
  const std::string where = path.string() + ": tensor counts";
  if (view.type != ElementType::u16 && view.type != ElementType::u32)
    throw bad_field(where, "dtype", name_of(view.type), "U16 or U32");
  if (view.shape.size() != 3 || view.shape[1] != trace.layers() || view.shape[2] != trace.num_experts)
    throw bad_field(where, "shape", to_string(view.shape),
                    "[records, " + std::to_string(trace.layers()) + ", " + std::to_string(trace.num_experts) +
                        "], as layer_ids and num_experts say");
  trace.counts =
      view.type == ElementType::u16 ? widened<std::uint16_t>(view.bytes) : widened<std::uint32_t>(view.bytes);
  validate(trace, path.string());
  return trace;
}

void validate(const LoadTrace& trace, const std::string& where) {
  validate(header_of(trace), where);
  if (trace.counts.empty()) throw bad_field(where, "counts", "0 records", "at least one record");
  if (trace.counts.size() % (static_cast<std::size_t>(trace.layers()) * trace.num_experts) != 0)
    throw bad_field(where, "counts", std::to_string(trace.counts.size()) + " values",
                    "a multiple of layers x num_experts");
  if (std::all_of(trace.counts.begin(), trace.counts.end(), [](std::uint32_t n) { return n == 0; }))
    throw bad_field(where, "counts", "nothing but zeros", "at least one token");
}

void write_load_trace(const std::filesystem::path& path, const LoadTrace& trace) {
  validate(trace, path.string());
  SafetensorsWriter writer(path);
  write_header(writer, kFormat, header_of(trace));
  writer.add("counts", ElementType::u32, {trace.records(), trace.layers(), trace.num_experts},
             std::as_bytes(std::span(trace.counts)));
  writer.finish();
}

Statistics count(const LoadTrace& trace, std::int64_t first, std::int64_t count) {
  if (count < 0) count = trace.records() - first;
  if (first < 0 || count < 1 || count > trace.records() - first)
    throw bad_field("load trace", "window of records",
                    "first " + std::to_string(first) + ", count " + std::to_string(count),
                    "at least one record among the trace's " + std::to_string(trace.records()));
  Statistics all;
  all.layers = trace.layers();
  all.experts = trace.num_experts;
  const std::size_t row = static_cast<std::size_t>(all.layers) * all.experts;
  all.load.resize(row);
  for (std::size_t i = first * row; i < (first + count) * row; ++i) all.load[i % row] += trace.counts[i];
  for (int l = 0; l < all.layers; ++l) {
    const auto load = all.load_at(l);
    all.tokens = std::max(all.tokens, std::accumulate(load.begin(), load.end(), 0.0) / trace.top_k);
  }
  return all;
}

}  // namespace coterie
