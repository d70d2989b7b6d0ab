#include "runtime/families/family.hpp"

#include "placement/input_error.hpp"
#include "runtime/checkpoint/quantization.hpp"
#include "runtime/families/routing_variants.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace coterie {
namespace {

const std::array kFamilies{&kDeepseekV2,  &kDeepseekV3, &kDots1,      &kErnie45Moe,       &kGlm4Moe,
                           &kGlm4MoeLite, &kGptOss,     &kGraniteMoe, &kGraniteMoeShared, &kKimiK2,
                           &kMiniMaxM2,   &kMixtral,    &kOlmoe,      &kPhiMoe,           &kQwen2Moe,
                           &kQwen3Moe,    &kSolarOpen};

std::string supported() {
  std::string list;
  for (const Family* f : kFamilies) list.append(list.empty() ? "" : ", ").append(f->model_type);
  return list;
}

void add_unique(std::vector<std::int32_t>& to, const std::vector<std::int32_t>& more) {
  for (const std::int32_t id : more) {
    if (std::find(to.begin(), to.end(), id) == to.end()) to.push_back(id);
  }
}

/// Of training, of how files are written, of how text is generated where nothing is asked for; and what read_rotary
/// looks after.
void ignore_harmless(const ConfigFile& config) {
  config.ignore({"architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "use_cache",
                 "name_or_path", "attn_implementation", "unsloth_fixed", "unsloth_version"});
  config.ignore({"bos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "eod_token_id",
                 "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
                 "bad_words_ids"});
  config.ignore({"attention_dropout", "hidden_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob",
                 "resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout", "initializer_range",
                 "router_aux_loss_coef", "router_z_loss_coef", "router_jitter_noise", "output_router_logits",
                 "aux_loss_alpha", "seq_aux", "gradient_checkpointing", "pretraining_tp", "use_mtp"});
  config.ignore({"output_attentions",
                 "output_hidden_states",
                 "return_dict",
                 "return_dict_in_generate",
                 "output_scores",
                 "torchscript",
                 "use_bfloat16",
                 "pruned_heads",
                 "chunk_size_feed_forward",
                 "is_decoder",
                 "is_encoder_decoder",
                 "add_cross_attention",
                 "cross_attention_hidden_size",
                 "tie_encoder_decoder",
                 "tf_legacy_loss",
                 "task_specific_params",
                 "problem_type",
                 "finetuning_task",
                 "id2label",
                 "label2id",
                 "num_labels",
                 "tokenizer_class",
                 "prefix"});
  config.ignore({"temperature", "top_k", "top_p", "typical_p", "do_sample", "num_beams", "num_beam_groups",
                 "num_return_sequences", "max_length", "min_length", "early_stopping", "repetition_penalty",
                 "length_penalty", "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
                 "exponential_decay_length_penalty", "remove_invalid_values"});
  config.ignore(
      {"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "original_max_position_embeddings"});
}

}  // namespace

ModelSpec read_model_spec(const std::filesystem::path& directory) {
  if (!std::filesystem::is_directory(directory)) {
    throw InputError(directory.string() + ": found no such folder, expected a model folder with config.json");
  }
  const ConfigFile config(directory / "config.json");
  const std::string type = config.text("model_type");
  const auto family =
      std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family* f) { return f->model_type == type; });
  if (family == kFamilies.end()) config.fail("model_type", "one of the supported families: " + supported());
  (void)read_quantization(config);

  ModelSpec spec = (*family)->spec(config);
  spec.end_tokens = config.integers("eos_token_id");
  apply_routing_variants(config, spec);
  for (const LayerSpec& layer : spec.layers)
    spec.max_positions = std::max(spec.max_positions, layer.attention.rotary.reach);
  ignore_harmless(config);
  config.expect_no_more(type);
  if (spec.moe_layers() == 0) {
    throw InputError((directory / "config.json").string() + ": found no layer with experts, expected one at least");
  }
  spec.family = type;
  if (std::filesystem::exists(directory / "generation_config.json")) {
    add_unique(spec.end_tokens, ConfigFile(directory / "generation_config.json").integers("eos_token_id"));
  }
  return spec;
}

ModelSpec common_spec(const ConfigFile& config, bool tied) {
  config.expect("hidden_act", "silu");
  ModelSpec spec;
  spec.hidden = config.positive("hidden_size");
  spec.vocabulary = config.positive("vocab_size");
  spec.max_positions = config.positive("max_position_embeddings");
  spec.norm_epsilon = static_cast<float>(config.number("rms_norm_eps"));
  if (spec.norm_epsilon < 0) config.fail("rms_norm_eps", "a number of at least 0");
  spec.embedding = whole("model.embed_tokens.weight", {spec.vocabulary, spec.hidden});
  spec.final_norm = rms_norm("model.norm.weight", spec.hidden, spec.norm_epsilon);
  spec.head = config.flag("tie_word_embeddings", tied) ? spec.embedding
                                                       : whole("lm_head.weight", {spec.vocabulary, spec.hidden});
  return spec;
}

AttentionShape read_attention_shape(const ConfigFile& config) {
  const std::int64_t hidden = config.positive("hidden_size");
  const std::int64_t heads = config.positive("num_attention_heads");
  const std::int64_t kv_heads = config.positive("num_key_value_heads", heads);
  if (heads % kv_heads != 0) config.fail("num_key_value_heads", "a divisor of num_attention_heads");
  if (!config.has("head_dim") && hidden % heads != 0) config.fail("num_attention_heads", "a divisor of hidden_size");
  const std::int64_t head_dim = config.positive("head_dim", hidden / heads);
  if (head_dim % 2 != 0) config.fail("head_dim", "an even number");

  AttentionShape shape;
  shape.heads = static_cast<int>(heads);
  shape.kv_heads = static_cast<int>(kv_heads);
  shape.head_dim = static_cast<int>(head_dim);
  shape.scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  return shape;
}

AttentionSpec separate_projections(const std::string& prefix, std::int64_t hidden, const AttentionShape& shape) {
  AttentionSpec attention;
  attention.shape = shape;
  const std::int64_t q = attention.q_width();
  const std::int64_t kv = attention.kv_width();
  attention.qkv = {whole(prefix + "q_proj.weight", {q, hidden}), whole(prefix + "k_proj.weight", {kv, hidden}),
                   whole(prefix + "v_proj.weight", {kv, hidden})};
  attention.out = whole(prefix + "o_proj.weight", {hidden, q});
  return attention;
}

}  // namespace coterie
