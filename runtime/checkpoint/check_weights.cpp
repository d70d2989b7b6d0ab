#include "runtime/checkpoint/check_weights.hpp"

#include "placement/input_error.hpp"
#include "runtime/checkpoint/checkpoint.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <set>
#include <string_view>
#include <vector>

namespace coterie {
namespace {

/// What is stored beside weights and changes nothing here: constants of older programs, and scales with which
/// activations and caches are rounded on other devices.
constexpr std::array<std::string_view, 7> kHarmless{".rotary_emb.inv_freq", ".masked_bias",      ".k_scale", ".v_scale",
                                                    ".input_scale",         ".activation_scale", ".q_scale"};

constexpr const char* kHead = "lm_head.weight";
constexpr std::int64_t kPanelElements = 1 << 20;  // that are read at a time

/// The layer that a tensor belongs to; -1: none.
int layer_of(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return -1;
  int layer = -1;
  std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer);
  return layer;
}

/// Whether a tensor that the model doesn't use would be a part of it.
bool belongs(const ModelSpec& spec, std::string_view name) {
  const auto harmless = [&](std::string_view end) { return name.ends_with(end); };
  if (std::any_of(kHarmless.begin(), kHarmless.end(), harmless)) return false;
  if (name == kHead) return false;  // check_tied_head has looked at it
  const int layer = layer_of(name);
  if (layer < 0)
    return name.starts_with("model.embed_tokens.") || name.starts_with("model.norm.") || name.starts_with("lm_head.");
  if (layer >= static_cast<int>(spec.layers.size())) return false;
  const std::optional<MoeSpec>& moe = spec.layers[static_cast<std::size_t>(layer)].moe;
  return !(moe && moe->experts_of && name.find(".experts.") != std::string_view::npos);  // it uses another layer's
}

/// "[2, 5]" for the number at `index` of an array of that shape.
std::string place_of(std::int64_t index, const Shape& shape) {
  Shape place(shape.size());
  for (std::size_t d = shape.size(); d-- > 0; index /= shape[d]) place[d] = index % shape[d];
  return to_string(place);
}

/// Where a weight's numbers are stored; as MXFP4 in a tensor of another name.
const StoredArray& stored(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = checkpoint.tensors().find(name);
  return found == checkpoint.tensors().end() ? checkpoint.tensors().at(name + "_blocks") : found->second;
}

/// Where the config says that the head is the embedding, files may hold it again. Another head, though, would be used
/// by some programs and passed over by others.
void check_tied_head(const ModelSpec& spec, const Checkpoint& checkpoint) {
  const auto head = checkpoint.tensors().find(kHead);
  if (spec.head.tensor != spec.embedding.tensor || head == checkpoint.tensors().end()) return;
  WeightRef copy = spec.embedding;
  copy.tensor = kHead;
  checkpoint.check(copy);
  const WeightSource sources[] = {checkpoint.source(spec.embedding), checkpoint.source(copy)};
  const std::int64_t most = std::max<std::int64_t>(1, kPanelElements / copy.cols);
  std::vector<float> panels[2];
  for (std::int64_t first = 0; first < copy.rows; first += most) {
    const std::int64_t rows = std::min(most, copy.rows - first);
    for (int i = 0; i < 2; ++i) {
      panels[i].resize(static_cast<std::size_t>(rows * copy.cols));
      sources[i].read(first, rows, panels[i].data());
    }
    if (std::memcmp(panels[0].data(), panels[1].data(), panels[0].size() * sizeof(float)) == 0) continue;
    throw bad_field(head->second.file->path().string(), kHead, "other numbers than in " + spec.embedding.tensor,
                    "the same, as tie_word_embeddings in config.json says");
  }
}

}  // namespace

void check_weights(const ModelSpec& spec, const Checkpoint& checkpoint) {
  std::set<std::string> used;
  spec.for_each_weight([&](const WeightRef& ref) {
    checkpoint.check(ref);
    if (!used.insert(ref.tensor).second) return;  // another part of it
    for (const char* part : {"_scale_inv", "_blocks", "_scales"}) used.insert(ref.tensor + part);
  });
  check_tied_head(spec, checkpoint);
  for (const auto& [name, array] : checkpoint.tensors()) {
    if (used.contains(name) || !belongs(spec, name)) continue;
    throw bad_field(array.file->path().string(), name,
                    std::string(name_of(array.tensor->type)) + " of shape " + to_string(array.tensor->shape),
                    "no such tensor: by its config.json the model has none");
  }
}

void expect_finite(const ModelSpec& spec, const Checkpoint& checkpoint) {
  std::vector<float> panel;
  spec.for_each_weight([&](const WeightRef& ref) {
    const WeightSource source = checkpoint.source(ref);
    const std::int64_t most = std::max<std::int64_t>(1, kPanelElements / ref.cols);
    for (std::int64_t first = 0; first < ref.rows; first += most) {
      const std::int64_t rows = std::min(most, ref.rows - first);
      panel.resize(static_cast<std::size_t>(rows * ref.cols));
      source.read(first, rows, panel.data());
      const auto broken = std::find_if(panel.begin(), panel.end(), [](float value) { return !std::isfinite(value); });
      if (broken == panel.end()) continue;
      const std::int64_t at = broken - panel.begin();
      const std::int64_t index = ref.offset + (first + at / ref.cols) * ref.row_stride + at % ref.cols * ref.col_stride;
      throw bad_field(stored(checkpoint, ref.tensor).file->path().string(), ref.tensor,
                      std::string(std::isnan(*broken) ? "NaN" : "infinity") + " at " + place_of(index, ref.stored),
                      "finite numbers");
    }
  });
}

}  // namespace coterie
