#include "placement/formats/recorded.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <limits>

namespace coterie {
namespace {

constexpr int kMostExperts = 65535;

void note(const FormatOptions& options, const std::string& text) {
  if (options.note) options.note(text);
}

std::string listed(const std::vector<int>& numbers) {
  std::string text;
  for (const int n : numbers) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return text;
}

/// The rows that are MoE layers, and which layers of the model they are.
struct Rows {
  std::vector<int> kept;
  std::vector<int> layer_ids;
};

/// `is_empty` tells of a row whether nothing was chosen there.
template <class IsEmpty>
Rows moe_rows(int layers, const std::vector<int>& layer_ids, const FormatOptions& options, const std::string& where,
              IsEmpty is_empty) {
  Rows rows;
  std::vector<int> empty;
  const auto id_of = [&](int row) { return layer_ids.empty() ? row : layer_ids[row]; };
  for (const int dense : options.dense_layers)
    if (layer_ids.empty() && dense >= layers)
      throw bad_field(where, "dense layers", std::to_string(dense), "layers below " + std::to_string(layers));
  for (int row = 0; row < layers; ++row) {
    if (std::count(options.dense_layers.begin(), options.dense_layers.end(), id_of(row)) > 0) continue;
    if (is_empty(row)) {
      empty.push_back(id_of(row));
      continue;
    }
    rows.kept.push_back(row);
    rows.layer_ids.push_back(id_of(row));
  }
  if (!empty.empty()) note(options, where + ": no choices at layers " + listed(empty) + ": taken as dense");
  if (rows.kept.empty()) throw bad_field(where, "layers", "no choices at any layer", "at least one MoE layer");
  if (!options.layer_ids.empty()) {
    if (options.layer_ids.size() != rows.kept.size())
      throw bad_field(where, "layers", std::to_string(rows.kept.size()) + " MoE layers",
                      std::to_string(options.layer_ids.size()) + ", as --layer-ids says");
    rows.layer_ids = options.layer_ids;
  }
  return rows;
}

int checked_experts(int largest, int from_file, const FormatOptions& options, const std::string& where) {
  const int said = options.experts > 0 ? options.experts : from_file;
  if (said == 0)
    note(options, where + ": " + std::to_string(largest + 1) + " experts, by the largest id; --experts sets it");
  const int experts = said == 0 ? largest + 1 : said;
  if (largest >= experts)
    throw bad_field(where, "expert id", std::to_string(largest), "below " + std::to_string(experts));
  if (experts > kMostExperts)
    throw bad_field(where, "experts", std::to_string(experts), "at most " + std::to_string(kMostExperts));
  return experts;
}

/// True when no token chose anything at the row: all -1, or one id in every column, which no top-k router gives.
bool is_empty_row(const RecordedChoices& r, int row) {
  const std::size_t step = static_cast<std::size_t>(r.layers) * r.width;
  for (std::size_t at = static_cast<std::size_t>(row) * r.width; at < r.experts.size(); at += step) {
    const auto* const first = &r.experts[at];
    const bool repeated = r.width > 1 && std::all_of(first, first + r.width, [&](int e) { return e == *first; });
    if (!repeated && !std::all_of(first, first + r.width, [](int e) { return e < 0; })) return false;
  }
  return true;
}

struct Extent {
  int largest = -1;  // id
  int width = 0;     // columns in use
};

Extent extent_of(const RecordedChoices& r, const std::vector<int>& rows) {
  Extent extent;
  const std::size_t tokens = r.experts.size() / (static_cast<std::size_t>(r.layers) * r.width);
  for (std::size_t t = 0; t < tokens; ++t)
    for (const int row : rows) {
      const auto* const choice = &r.experts[(t * r.layers + row) * r.width];
      for (int i = 0; i < r.width; ++i)
        if (choice[i] >= 0) extent = {std::max(extent.largest, choice[i]), std::max(extent.width, i + 1)};
    }
  return extent;
}

}  // namespace

Trace trace_of(const RecordedChoices& recorded, const FormatOptions& options, const std::string& where) {
  if (recorded.experts.empty()) throw bad_field(where, "choices", "0 tokens", "at least one token");
  const Rows rows = moe_rows(recorded.layers, recorded.layer_ids, options, where,
                             [&](int row) { return is_empty_row(recorded, row); });
  const Extent extent = extent_of(recorded, rows.kept);
  if (options.top_k > 0 && options.top_k < extent.width)
    throw bad_field(where, "choices of a token", std::to_string(extent.width),
                    "at most " + std::to_string(options.top_k) + ", as --top-k says");

  Trace trace;
  trace.model = options.model;
  trace.num_experts = checked_experts(extent.largest, recorded.num_experts, options, where);
  trace.top_k = options.top_k > 0 ? options.top_k : extent.width;
  trace.layer_ids = rows.layer_ids;
  trace.gate_order = options.gate_order.value_or(recorded.gate_order);
  trace.sequence = recorded.sequence;
  trace.position = recorded.position;
  const std::size_t tokens = recorded.experts.size() / (static_cast<std::size_t>(recorded.layers) * recorded.width);
  trace.experts.reserve(tokens * rows.kept.size() * trace.top_k);
  for (std::size_t t = 0; t < tokens; ++t)
    for (const int row : rows.kept)
      for (int i = 0; i < trace.top_k; ++i) {
        const std::size_t at = (t * recorded.layers + row) * recorded.width + i;
        const int expert = i < recorded.width ? recorded.experts[at] : -1;
        trace.experts.push_back(expert < 0 ? Trace::kNoExpert : static_cast<std::uint16_t>(expert));
        if (!recorded.weights.empty()) trace.weights.emplace_back(i < recorded.width ? recorded.weights[at] : 0.F);
      }
  validate(trace, where);
  return trace;
}

LoadTrace load_of(const RecordedCounts& recorded, const FormatOptions& options, const std::string& where) {
  const std::size_t step = static_cast<std::size_t>(recorded.layers) * recorded.num_experts;
  if (step == 0 || recorded.counts.empty()) throw bad_field(where, "counts", "0 records", "at least one record");
  const auto is_empty = [&](int row) {
    for (std::size_t at = static_cast<std::size_t>(row) * recorded.num_experts; at < recorded.counts.size(); at += step)
      for (int e = 0; e < recorded.num_experts; ++e)
        if (recorded.counts[at + e] != 0) return false;
    return true;
  };
  const Rows rows = moe_rows(recorded.layers, recorded.layer_ids, options, where, is_empty);
  LoadTrace trace;
  trace.model = options.model;
  trace.num_experts = checked_experts(recorded.num_experts - 1, recorded.num_experts, options, where);
  trace.top_k = options.top_k > 0 ? options.top_k : recorded.top_k;
  if (trace.top_k == 0) throw bad_field(where, "experts per token", "nothing", "--top-k: counts don't say it");
  trace.layer_ids = rows.layer_ids;
  for (std::size_t begin = 0; begin < recorded.counts.size(); begin += step)
    for (const int row : rows.kept)
      for (int e = 0; e < trace.num_experts; ++e) {
        const std::int64_t n = e < recorded.num_experts
                                   ? recorded.counts[begin + static_cast<std::size_t>(row) * recorded.num_experts + e]
                                   : 0;
        if (n < 0 || n > std::numeric_limits<std::uint32_t>::max())
          throw bad_field(where, "a count", std::to_string(n), "0 to 4294967295");
        trace.counts.push_back(static_cast<std::uint32_t>(n));
      }
  validate(trace, where);
  note(options, where +
                    ": counts without the choices behind them: they support `coterie plan --objective load`; affinity "
                    "and traffic need the experts of each token");
  return trace;
}

}  // namespace coterie
