// SGLang's expert distribution records: what /dump_expert_distribution_record leaves, in the modes stat (counts),
// per_pass (counts of each forward pass) and per_token (the choices of every token).
#include "placement/files/torch_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/recorded.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <set>
#include <tuple>

namespace coterie {
namespace {

const Pickled& member(const TorchFile& file, const Pickled& value, const std::string& key) {
  const Pickled* const found = find(value, key);
  if (found == nullptr) throw bad_field(file.where(), key, "nothing", "this field of an SGLang record");
  return *found;
}

/// Integers of a list; nothing when it is None or something else.
std::optional<std::vector<std::int32_t>> numbers(const Pickled* value) {
  const auto all = value == nullptr ? std::nullopt : items(*value);
  if (!all) return std::nullopt;
  std::vector<std::int32_t> result;
  for (const Pickled* const one : *all) {
    const auto* const n = std::get_if<std::int64_t>(&one->value);
    if (n == nullptr || *n != static_cast<std::int32_t>(*n)) return std::nullopt;
    result.push_back(static_cast<std::int32_t>(*n));
  }
  return result;
}

void expect_dimensions(const TorchFile& file, const IntegerArray& array, const std::string& field,
                       std::size_t dimensions) {
  if (array.shape.size() != dimensions || array.values.empty())
    throw bad_field(file.where(), field, to_string(array.shape),
                    std::to_string(dimensions) + " dimensions, none of them 0");
}

/// Physical slot -> logical expert, for each layer.
struct SlotMap {
  IntegerArray array;  // (layers, physical)
  int experts = 0;

  explicit SlotMap(const TorchFile& file) {
    const std::string field = "last_physical_to_logical_map";
    array = file.integers(member(file, file.root(), field), field);
    expect_dimensions(file, array, field, 2);
    const auto [least, most] = std::minmax_element(array.values.begin(), array.values.end());
    if (*least < 0) throw bad_field(file.where(), field, std::to_string(*least), "experts from 0");
    experts = *most + 1;
  }
  [[nodiscard]] std::int64_t layers() const { return array.shape[0]; }
  [[nodiscard]] std::int64_t slots() const { return array.shape[1]; }
  [[nodiscard]] std::int32_t expert(std::int64_t layer, std::int64_t slot) const {
    return array.values[layer * slots() + slot];
  }
};

std::span<const Pickled* const> records(const TorchFile& file) {
  const auto all = items(member(file, file.root(), "records"));
  if (!all || all->empty()) throw bad_field(file.where(), "records", "none", "at least one forward pass");
  return *all;
}

LoadTrace read_stat(const TorchFile& file, const FormatOptions& options) {
  IntegerArray counts = file.integers(member(file, file.root(), "logical_count"), "logical_count");
  if (counts.shape.size() == 2) counts.shape.insert(counts.shape.begin(), 1);
  expect_dimensions(file, counts, "logical_count", 3);
  return load_of({static_cast<int>(counts.shape[1]),
                  static_cast<int>(counts.shape[2]),
                  {counts.values.begin(), counts.values.end()},
                  {},
                  0},
                 options, file.where());
}

void add_pass(const TorchFile& file, const Pickled& record, const SlotMap& map, RecordedCounts& all) {
  const IntegerArray counts = file.integers(member(file, record, "global_physical_count"), "global_physical_count");
  if (counts.shape != map.array.shape)
    throw bad_field(file.where(), "global_physical_count", to_string(counts.shape), to_string(map.array.shape));
  const std::size_t begin = all.counts.size();
  all.counts.resize(begin + static_cast<std::size_t>(map.layers()) * map.experts);
  for (std::int64_t l = 0; l < map.layers(); ++l)
    for (std::int64_t s = 0; s < map.slots(); ++s)
      all.counts[begin + l * map.experts + map.expert(l, s)] += counts.values[l * map.slots() + s];
}

/// What a token stream is known by: tensor-parallel ranks each record the same tokens.
using PassKey = std::tuple<std::int64_t, std::vector<std::int32_t>, std::vector<std::int32_t>>;

PassKey key_of(const Pickled& record) {
  const Pickled* const pass = find(record, "forward_pass_id");
  const auto* const id = pass == nullptr ? nullptr : std::get_if<std::int64_t>(&pass->value);
  return {id == nullptr ? -1 : *id, numbers(find(record, "input_ids")).value_or(std::vector<std::int32_t>{}),
          numbers(find(record, "positions")).value_or(std::vector<std::int32_t>{})};
}

/// A prefill's tokens are those of its prompts, one after the other; a decode step has a token of each sequence, and
/// nothing says which sequence that was a step before, so each stands alone.
void add_sequences(const Pickled& record, std::int64_t tokens, RecordedChoices& all) {
  auto lengths = numbers(find(record, "extend_seq_lens")).value_or(std::vector<std::int32_t>{});
  const auto positions = numbers(find(record, "positions")).value_or(std::vector<std::int32_t>{});
  std::int64_t prompt_tokens = 0;
  for (const int n : lengths) prompt_tokens += n < 0 ? tokens + 1 : n;
  if (prompt_tokens != tokens) lengths.assign(static_cast<std::size_t>(tokens), 1);
  std::int32_t sequence = all.sequence.empty() ? 0 : all.sequence.back() + 1;
  std::size_t t = 0;
  for (const int n : lengths) {
    for (int i = 0; i < n; ++i, ++t) {
      all.sequence.push_back(sequence);
      all.position.push_back(positions.size() == static_cast<std::size_t>(tokens) ? positions[t] : i);
    }
    ++sequence;
  }
}

void add_tokens(const TorchFile& file, const Pickled& record, const SlotMap& map, RecordedChoices& all) {
  const std::string field = "topk_ids_of_layer";
  const IntegerArray ids = file.integers(member(file, record, field), field);
  if (ids.shape.size() != 3 || ids.shape[0] != map.layers() || (all.width != 0 && ids.shape[2] != all.width))
    throw bad_field(file.where(), field, to_string(ids.shape),
                    "[" + std::to_string(map.layers()) + ", tokens, " + std::to_string(all.width) + "]");
  const std::int64_t tokens = ids.shape[1];
  all.width = static_cast<int>(ids.shape[2]);
  all.layers = static_cast<int>(map.layers());
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t l = 0; l < map.layers(); ++l)
      for (std::int64_t i = 0; i < all.width; ++i) {
        const std::int32_t slot = ids.values[(l * tokens + t) * all.width + i];
        if (slot < -1 || slot >= map.slots())
          throw bad_field(file.where(), field, std::to_string(slot),
                          "slots below " + std::to_string(map.slots()) + ", or -1");
        all.experts.push_back(slot < 0 ? -1 : map.expert(l, slot));
      }
  add_sequences(record, tokens, all);
}

AnyTrace read(std::span<const std::filesystem::path> paths, const FormatOptions& options) {
  RecordedChoices choices;
  RecordedCounts counts;
  std::set<PassKey> seen;
  std::int64_t repeated = 0;
  for (const auto& path : paths) {
    const TorchFile file(path);
    if (find(file.root(), "logical_count") != nullptr) {
      if (paths.size() > 1)
        throw InputError(file.where() + ": a stat record holds the counts of all ranks: give one such file alone");
      return read_stat(file, options);
    }
    const SlotMap map(file);
    if (counts.layers != 0 && (counts.layers != map.layers() || counts.num_experts != map.experts))
      throw bad_field(file.where(), "last_physical_to_logical_map", "other layers or experts",
                      "those of the first file");
    counts.layers = static_cast<int>(map.layers());
    counts.num_experts = choices.num_experts = map.experts;
    for (const Pickled* const record : records(file)) {
      if (find(*record, "topk_ids_of_layer") == nullptr) {
        add_pass(file, *record, map, counts);
      } else if (seen.insert(key_of(*record)).second) {
        add_tokens(file, *record, map, choices);
      } else {
        ++repeated;
      }
    }
  }
  const std::string where = paths.front().string();
  if (repeated > 0 && options.note)
    options.note(where + ": " + std::to_string(repeated) + " passes left out that another rank's file has too");
  if (choices.experts.empty()) return load_of(counts, options, where);
  if (!counts.counts.empty()) throw InputError(where + ": found per_pass and per_token records, expected one kind");
  return trace_of(choices, options, where);
}

bool recognises(const std::filesystem::path& path) {
  if (!is_zip(path)) return false;
  try {
    const TorchFile file(path);
    return find(file.root(), "logical_count") != nullptr || find(file.root(), "records") != nullptr;
  } catch (const InputError&) {
    return true;  // reading it says what is wrong with it
  }
}

}  // namespace

const TraceFormat kSglangRecord{"sglang-record",
                                "SGLang expert distribution record, .pt: per_token; per_pass, stat (counts)",
                                recognises, read, nullptr};

}  // namespace coterie
