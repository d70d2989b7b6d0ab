#include "placement/trace/trace.hpp"

#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"
#include "placement/trace/trace_header.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <unordered_set>
#include <utility>

namespace coterie {
namespace {

constexpr const char* kFormat = "coterie.trace/1";
constexpr int kMostExpertsU8 = 255;
constexpr std::uint8_t kNoExpertU8 = 255;
constexpr std::int64_t kChunk = 1 << 22;  // elements converted before their pages are given back

GateOrder gate_order_of(const SafetensorsFile& file) {
  const std::string& text = header_text(file, "gate_order");
  if (text == "descending") return GateOrder::descending;
  if (text == "unordered") return GateOrder::unordered;
  throw bad_field(file.path().string(), "__metadata__.gate_order", "'" + text + "'", "'descending' or 'unordered'");
}

const TensorView& tensor(const SafetensorsFile& file, const std::string& name, ElementType type, const Shape& shape) {
  const TensorView& view = file.at(name);
  const std::string where = file.path().string() + ": tensor " + name;
  if (view.type != type) throw bad_field(where, "dtype", name_of(view.type), name_of(type));
  if (view.shape != shape) throw bad_field(where, "shape", to_string(view.shape), to_string(shape));
  return view;
}

/// Copies an array out of the file in pieces, so that never both copies of all of it are in memory. `From` is the
/// element in the file; `convert` makes the one in memory.
template <class From, class To, class Convert>
void read_array(const SafetensorsFile& file, const TensorView& view, std::vector<To>& to, Convert convert) {
  const auto count = static_cast<std::int64_t>(view.bytes.size() / sizeof(From));
  to.resize(static_cast<std::size_t>(count));
  std::vector<From> chunk(static_cast<std::size_t>(std::min(count, kChunk)));
  for (std::int64_t done = 0; done < count; done += kChunk) {
    const auto n = static_cast<std::size_t>(std::min(kChunk, count - done));
    const auto bytes = view.bytes.subspan(static_cast<std::size_t>(done) * sizeof(From), n * sizeof(From));
    std::memcpy(chunk.data(), bytes.data(), bytes.size());
    std::transform(chunk.begin(), chunk.begin() + static_cast<std::ptrdiff_t>(n), to.begin() + done, convert);
    file.release(bytes);
  }
}

void read_experts(const SafetensorsFile& file, Trace& trace) {
  const TensorView& view = file.at("experts");
  const std::string where = file.path().string() + ": tensor experts";
  if (view.type != ElementType::u8 && view.type != ElementType::u16)
    throw bad_field(where, "dtype", name_of(view.type), "U8 or U16");
  if (view.type == ElementType::u8 && trace.num_experts > kMostExpertsU8)
    throw bad_field(where, "dtype", "U8", "U16 for " + std::to_string(trace.num_experts) + " experts");
  if (view.shape.size() != 3 || view.shape[1] != trace.layers() || view.shape[2] != trace.top_k)
    throw bad_field(where, "shape", to_string(view.shape),
                    "[tokens, " + std::to_string(trace.layers()) + ", " + std::to_string(trace.top_k) +
                        "], as layer_ids and top_k say");
  if (view.type == ElementType::u8) {
    read_array<std::uint8_t>(file, view, trace.experts,
                             [](std::uint8_t e) { return e == kNoExpertU8 ? Trace::kNoExpert : std::uint16_t{e}; });
  } else {
    read_array<std::uint16_t>(file, view, trace.experts, [](std::uint16_t e) { return e; });
  }
}

std::string place(const Trace& trace, std::int64_t token, int layer) {
  return "experts[" + std::to_string(token) + ", " + std::to_string(layer) + "] (token " + std::to_string(token) +
         ", layer " + std::to_string(trace.layer_ids[layer]) + ")";
}

void validate_choice(const Trace& trace, const std::string& where, std::int64_t token, int layer) {
  const std::uint16_t* const choice = &trace.experts[(token * trace.layers() + layer) * trace.top_k];
  for (int i = 0; i < trace.top_k; ++i) {
    if (choice[i] == Trace::kNoExpert) continue;
    if (choice[i] >= trace.num_experts)
      throw bad_field(where, place(trace, token, layer), std::to_string(choice[i]),
                      "an expert below " + std::to_string(trace.num_experts) + " or padding");
    for (int j = 0; j < i; ++j)
      if (choice[i] == choice[j])
        throw bad_field(where, place(trace, token, layer), "expert " + std::to_string(choice[i]) + " twice",
                        std::to_string(trace.top_k) + " different experts");
  }
}

void validate_weights(const Trace& trace, const std::string& where) {
  if (trace.weights.empty()) return;
  if (trace.weights.size() != trace.experts.size())
    throw bad_field(where, "weights", std::to_string(trace.weights.size()) + " values",
                    std::to_string(trace.experts.size()) + ", one for each expert");
  const auto wrong = [&](std::size_t at, const std::string& expected) {
    const std::size_t row = static_cast<std::size_t>(trace.layers()) * trace.top_k;
    return bad_field(where,
                     "weights[" + std::to_string(at / row) + ", " + std::to_string(at % row / trace.top_k) + ", " +
                         std::to_string(at % trace.top_k) + "]",
                     std::to_string(static_cast<float>(trace.weights[at])), expected);
  };
  const bool descending = trace.gate_order == GateOrder::descending;
  for (std::size_t first = 0; first < trace.weights.size(); first += trace.top_k) {
    float before = std::numeric_limits<float>::infinity();
    for (std::size_t at = first; at < first + trace.top_k; ++at) {
      const auto weight = static_cast<float>(trace.weights[at]);
      if (!trace.weights[at].is_finite() || weight < 0) throw wrong(at, "a finite number of at least 0");
      if (!descending || trace.experts[at] == Trace::kNoExpert) continue;
      if (weight > before) throw wrong(at, "no more than the weight before it, as gate_order is descending");
      before = weight;
    }
  }
}

void validate_sequences(const Trace& trace, const std::string& where) {
  const auto tokens = static_cast<std::size_t>(trace.tokens());
  for (const auto& [name, values] : {std::pair("sequence", &trace.sequence), std::pair("position", &trace.position)})
    if (!values->empty() && values->size() != tokens)
      throw bad_field(where, name, std::to_string(values->size()) + " values",
                      std::to_string(tokens) + ", one a token");
  for (std::size_t t = 0; t < trace.position.size(); ++t) {
    const bool follows = t > 0 && !trace.sequence.empty() && trace.sequence[t] == trace.sequence[t - 1];
    const int least = follows ? trace.position[t - 1] : -1;
    if (trace.position[t] <= least)
      throw bad_field(where, "position[" + std::to_string(t) + "]", std::to_string(trace.position[t]),
                      "more than " + std::to_string(least));
  }
  std::unordered_set<std::int32_t> seen;
  for (std::size_t t = 0; t < trace.sequence.size(); ++t)
    if ((t == 0 || trace.sequence[t] != trace.sequence[t - 1]) && !seen.insert(trace.sequence[t]).second)
      throw bad_field(where, "sequence[" + std::to_string(t) + "]",
                      std::to_string(trace.sequence[t]) + ", which other sequences interrupt",
                      "the tokens of a sequence to lie together");
}

TraceHeader header_of(const Trace& trace) {
  return {trace.model, trace.num_experts, trace.top_k, trace.layer_ids};
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

void write_experts_u8(SafetensorsWriter& writer, const Trace& trace, const Shape& shape) {
  writer.begin("experts", ElementType::u8, shape);
  std::vector<std::uint8_t> chunk;
  for (std::size_t done = 0; done < trace.experts.size(); done += chunk.size()) {
    chunk.resize(std::min<std::size_t>(kChunk, trace.experts.size() - done));
    std::transform(&trace.experts[done], &trace.experts[done] + chunk.size(), chunk.begin(),
                   [](std::uint16_t e) { return e == Trace::kNoExpert ? kNoExpertU8 : static_cast<std::uint8_t>(e); });
    writer.append(bytes_of(chunk));
  }
}

}  // namespace

Trace read_trace(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  const std::string where = path.string();
  TraceHeader header = read_header(file, kFormat);

  Trace trace;
  trace.model = std::move(header.model);
  trace.num_experts = header.num_experts;
  trace.top_k = header.top_k;
  trace.layer_ids = std::move(header.layer_ids);
  trace.gate_order = gate_order_of(file);
  if (const auto found = file.metadata().find("requests"); found != file.metadata().end()) {
    trace.requests = found->second;
  }
  read_experts(file, trace);
  if (file.contains("weights"))
    read_array<std::uint16_t>(file, tensor(file, "weights", ElementType::f16, file.at("experts").shape), trace.weights,
                              Half::from_bits);
  for (const auto& [name, values] : {std::pair("sequence", &trace.sequence), std::pair("position", &trace.position)})
    if (file.contains(name))
      read_array<std::int32_t>(file, tensor(file, name, ElementType::i32, {trace.tokens()}), *values,
                               [](std::int32_t v) { return v; });
  validate(trace, where);
  return trace;
}

void validate(const Trace& trace, const std::string& where) {
  validate(header_of(trace), where);
  if (trace.experts.empty()) throw bad_field(where, "experts", "0 tokens", "at least one token");
  const std::int64_t tokens = trace.tokens();
  if (trace.experts.size() != static_cast<std::size_t>(tokens) * trace.layers() * trace.top_k)
    throw bad_field(where, "experts", std::to_string(trace.experts.size()) + " values",
                    "a multiple of layers x top_k = " + std::to_string(trace.layers() * trace.top_k));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int l = 0; l < trace.layers(); ++l) validate_choice(trace, where, t, l);
  if (std::all_of(trace.experts.begin(), trace.experts.end(), [](std::uint16_t e) { return e == Trace::kNoExpert; }))
    throw bad_field(where, "experts", "nothing but padding", "at least one choice");
  validate_weights(trace, where);
  validate_sequences(trace, where);
}

void write_trace(const std::filesystem::path& path, const Trace& trace) {
  validate(trace, path.string());
  const Shape shape{trace.tokens(), trace.layers(), trace.top_k};
  SafetensorsWriter writer(path);
  write_header(writer, kFormat, header_of(trace));
  writer.metadata("gate_order", trace.gate_order == GateOrder::descending ? "descending" : "unordered");
  if (!trace.requests.empty()) writer.metadata("requests", trace.requests);
  if (trace.num_experts <= kMostExpertsU8) {
    write_experts_u8(writer, trace, shape);
  } else {
    writer.add("experts", ElementType::u16, shape, bytes_of(trace.experts));
  }
  if (!trace.weights.empty()) writer.add("weights", ElementType::f16, shape, bytes_of(trace.weights));
  if (!trace.sequence.empty()) writer.add("sequence", ElementType::i32, {trace.tokens()}, bytes_of(trace.sequence));
  if (!trace.position.empty()) writer.add("position", ElementType::i32, {trace.tokens()}, bytes_of(trace.position));
  writer.finish();
}

}  // namespace coterie
