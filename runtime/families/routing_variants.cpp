#include "runtime/families/routing_variants.hpp"

#include "placement/input_error.hpp"

#include <algorithm>

namespace coterie {
namespace {

void share_experts(const ConfigFile& config, ModelSpec& spec) {
  const std::vector<std::int32_t> layers = config.integers("expert_layers");
  if (layers.size() != spec.layers.size()) config.fail("expert_layers", "a layer's number for each layer");
  for (int l = 0; l < static_cast<int>(layers.size()); ++l) {
    const std::int32_t from = layers[l];
    std::optional<MoeSpec>& moe = spec.layers[l].moe;
    if (from == l || !moe) continue;
    if (from < 0 || from > l || layers[from] != from || !spec.layers[from].moe) {
      config.fail("expert_layers", "for each layer itself, or an earlier one that has experts of its own");
    }
    const std::vector<ExpertRef>& experts = spec.layers[from].moe->experts;
    if (experts.size() != moe->experts.size()) {
      config.fail("expert_layers", "layers that have as many experts as those that use them");
    }
    moe->experts = experts;
    moe->experts_of = from;
  }
}

}  // namespace

void apply_routing_variants(const ConfigFile& config, ModelSpec& spec) {
  if (config.has("router_top_p")) {
    const double top_p = config.number("router_top_p");
    if (top_p <= 0 || top_p > 1) config.fail("router_top_p", "a number above 0 and at most 1");
    for (LayerSpec& layer : spec.layers) {
      if (layer.moe) layer.moe->router.top_p = static_cast<float>(top_p);
    }
  }
  if (config.has("expert_layers")) share_experts(config, spec);
}

void set_experts_per_token(ModelSpec& spec, int experts, const std::string& option) {
  for (std::size_t l = 0; l < spec.layers.size(); ++l) {
    if (!spec.layers[l].moe) continue;
    MoeSpec& moe = *spec.layers[l].moe;
    const auto in_groups = static_cast<std::int64_t>(moe.experts.size()) / moe.router.groups * moe.router.top_groups;
    if (experts < 1 || experts > in_groups) {
      throw InputError(option + ": found " + std::to_string(experts) + ", expected 1 to " + std::to_string(in_groups) +
                       ", from which a token of layer " + std::to_string(l) + " may choose");
    }
    if (moe.router.scoring == Scoring::sparse_mixer && experts != moe.router.top_k) {
      throw InputError(option + ": found " + std::to_string(experts) + ", expected " +
                       std::to_string(moe.router.top_k) + ", as SparseMixer chooses");
    }
    moe.router.top_k = experts;
  }
}

}  // namespace coterie
