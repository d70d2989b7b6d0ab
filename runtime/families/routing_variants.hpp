// Variants of routing that the config of any family may name, beside what the family itself does:
//
//   router_top_p       0 to 1: a token takes fewer than k experts, as soon as their gate values add up to this
//   num_null_experts   the router's last so many outputs stand for no expert: who chooses one has one expert fewer
//   expert_layers      one number for each layer: the layer whose experts it uses, its own or an earlier one
//
// The numbers of experts, and of experts per token, may be lists with one number for each layer (pruned models).
#pragma once

#include "runtime/checkpoint/config_file.hpp"
#include "runtime/checkpoint/model_spec.hpp"

namespace coterie {

/// router_top_p and expert_layers; the numbers are read with the family's experts (read_expert_count).
void apply_routing_variants(const ConfigFile& config, ModelSpec& spec);

/// Every token takes so many experts at each layer, whatever the config says. Throws InputError naming `option` when a
/// layer has fewer, its groups allow fewer, or its way of choosing knows no other number.
void set_experts_per_token(ModelSpec& spec, int experts, const std::string& option);

}  // namespace coterie
