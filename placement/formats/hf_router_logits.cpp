// Router logits that HF transformers return (output_router_logits): the tuple itself as torch.save writes it, or saved
// as safetensors, a tensor for each MoE layer, or as .npy: (tokens, experts) a file for each layer, or (layers, tokens,
// experts). The choices are taken from them as the model's router does; that is right for softmax routers only.
#include "placement/files/npy_file.hpp"
#include "placement/files/tensor_values.hpp"
#include "placement/files/torch_file.hpp"
#include "placement/formats/formats.hpp"
#include "placement/formats/recorded.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>

namespace coterie {
namespace {

namespace fs = std::filesystem;

bool recognises(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  try {
    if (is_zip(path)) return items(TorchFile(path).root()).has_value();
    const SafetensorsFile file(path);
    return !file.tensors().empty() && std::all_of(file.tensors().begin(), file.tensors().end(), [](const auto& t) {
      return t.first.find("router_logits") != std::string::npos;
    });
  } catch (const InputError&) {
    return false;
  }
}

/// The last number in a name: which layer it is of.
std::optional<int> number_in(const std::string& name) {
  const auto end = name.find_last_of("0123456789");
  if (end == std::string::npos) return std::nullopt;
  const auto before = name.find_last_not_of("0123456789", end);
  const auto begin = before == std::string::npos ? 0 : before + 1;
  return end - begin > 7 ? std::nullopt : std::optional(std::stoi(name.substr(begin, end - begin + 1)));
}

struct Layer {
  std::string where;
  Shape shape;                // (tokens, experts) or (sequences, tokens of each, experts)
  std::vector<float> logits;  // row-major
};

void add(std::map<int, Layer>& layers, std::optional<int> number, Layer layer) {
  if (!number) throw bad_field(layer.where, "name", "no number", "the layer's number at its end");
  if (layers.contains(*number))
    throw bad_field(layer.where, "name", "layer " + std::to_string(*number) + " again", "each layer once");
  layers.emplace(*number, std::move(layer));
}

/// A tuple or list of a tensor for each MoE layer.
void add_tuple(std::map<int, Layer>& layers, const fs::path& path) {
  const TorchFile file(path);
  const auto all = items(file.root());
  if (!all) throw bad_field(path.string(), "content", "something else", "a tuple of tensors, as outputs.router_logits");
  for (std::size_t l = 0; l < all->size(); ++l) {
    const std::string field = "router_logits[" + std::to_string(l) + "]";
    FloatArray logits = file.floats(*(*all)[l], field);
    add(layers, static_cast<int>(l), {path.string() + ": " + field, logits.shape, std::move(logits.values)});
  }
}

std::map<int, Layer> read_layers(std::span<const fs::path> paths) {
  std::map<int, Layer> layers;
  for (const auto& path : paths) {
    if (is_zip(path)) {
      add_tuple(layers, path);
      continue;
    }
    if (!is_npy(path)) {
      const SafetensorsFile file(path);
      for (const auto& [name, tensor] : file.tensors()) {
        const std::string where = path.string() + ": tensor " + name;
        add(layers, number_in(name), {where, tensor.shape, floats_of(tensor, where)});
      }
      continue;
    }
    const NpyFile file(path);
    const Shape& shape = file.shape();
    if (paths.size() > 1 || shape.size() == 2) {
      const int only = paths.size() == 1 ? 0 : -1;
      add(layers, only == 0 ? only : number_in(path.stem().string()), {path.string(), shape, file.floats()});
      continue;
    }
    if (shape.size() != 3 || shape[0] > 65535)
      throw bad_field(path.string(), "shape", to_string(shape), "[layers, tokens, experts]");
    const auto all = file.floats();
    const auto size = static_cast<std::ptrdiff_t>(shape[1] * shape[2]);
    for (int l = 0; l < shape[0]; ++l)
      add(layers, l, {path.string(), {shape[1], shape[2]}, {all.begin() + l * size, all.begin() + (l + 1) * size}});
  }
  return layers;
}

/// What a router makes of one row of logits: the k largest, ties to the lower expert, and their weights.
class SoftmaxRouter {
 public:
  SoftmaxRouter(int k, bool normalized, std::size_t experts) : k_(k), normalized_(normalized), order_(experts) {}

  void route(const float* logits, const std::string& where, std::int32_t* experts, float* weights) {
    const std::size_t count = order_.size();
    if (!std::all_of(logits, logits + count, [](float x) { return std::isfinite(x); }))
      throw bad_field(where, "logits", "a number that is not finite", "finite numbers");
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + k_, order_.end(),
                      [&](int a, int b) { return std::pair(-logits[a], a) < std::pair(-logits[b], b); });
    const float largest = logits[order_.front()];
    double total = 0;
    for (std::size_t i = 0; i < (normalized_ ? static_cast<std::size_t>(k_) : count); ++i)
      total += std::exp(static_cast<double>(logits[order_[i]] - largest));
    for (int i = 0; i < k_; ++i) {
      experts[i] = order_[i];
      weights[i] = static_cast<float>(std::exp(static_cast<double>(logits[order_[i]] - largest)) / total);
    }
  }

 private:
  int k_;
  bool normalized_;
  std::vector<int> order_;
};

void add_sequences(const Shape& shape, RecordedChoices& all) {
  if (shape.size() != 3) return;
  for (std::int64_t s = 0; s < shape[0]; ++s)
    for (std::int64_t p = 0; p < shape[1]; ++p) {
      all.sequence.push_back(static_cast<std::int32_t>(s));
      all.position.push_back(static_cast<std::int32_t>(p));
    }
}

AnyTrace read(std::span<const fs::path> paths, const FormatOptions& options) {
  const std::string where = paths.front().string();
  if (!options.normalized)
    throw bad_field(where, "router", "nothing",
                    "--router softmax (OLMoE) or softmax-normalized (Mixtral, norm_topk_prob): logits don't say it");
  if (options.top_k == 0) throw bad_field(where, "experts per token", "nothing", "--top-k: logits don't say it");
  const auto layers = read_layers(paths);
  if (layers.empty()) throw bad_field(where, "layers", "none", "a tensor of router logits for each MoE layer");
  const Shape& shape = layers.begin()->second.shape;
  if (shape.size() < 2 || shape.size() > 3 || shape.back() < options.top_k || shape.back() > 65535)
    throw bad_field(layers.begin()->second.where, "shape", to_string(shape),
                    "[tokens, experts] or [sequences, tokens, experts], at least --top-k experts");

  RecordedChoices all;
  all.layers = static_cast<int>(layers.size());
  all.width = options.top_k;
  all.num_experts = static_cast<int>(shape.back());
  all.gate_order = GateOrder::descending;
  const std::size_t tokens = layers.begin()->second.logits.size() / static_cast<std::size_t>(shape.back());
  all.experts.resize(tokens * all.layers * all.width);
  all.weights.resize(all.experts.size());
  SoftmaxRouter router(all.width, *options.normalized, static_cast<std::size_t>(all.num_experts));
  for (std::size_t column = 0; const auto& [number, layer] : layers) {
    if (layer.shape != shape) throw bad_field(layer.where, "shape", to_string(layer.shape), to_string(shape));
    all.layer_ids.push_back(number);
    for (std::size_t t = 0; t < tokens; ++t) {
      const std::size_t at = (t * all.layers + column) * all.width;
      router.route(&layer.logits[t * all.num_experts], layer.where, &all.experts[at], &all.weights[at]);
    }
    ++column;
  }
  add_sequences(shape, all);
  return trace_of(all, options, where);
}

}  // namespace

const TraceFormat kHfRouterLogits{"hf-router-logits",
                                  "HF transformers router logits, .pt, safetensors or .npy; softmax routers only",
                                  recognises, read, nullptr};

}  // namespace coterie
