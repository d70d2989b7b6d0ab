#include "runtime/family.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace coterie {
namespace {

const std::array kFamilies{&kMixtral, &kOlmoe};

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
  if (config.has("quantization_config")) config.fail("quantization_config", "weights stored as F32, F16 or BF16");

  ModelSpec spec = (*family)->spec(config);
  if (spec.moe_layers() == 0) {
    throw InputError((directory / "config.json").string() + ": found no layer with experts, expected one at least");
  }
  spec.family = type;
  spec.end_tokens = config.integers("eos_token_id");
  if (std::filesystem::exists(directory / "generation_config.json")) {
    add_unique(spec.end_tokens, ConfigFile(directory / "generation_config.json").integers("eos_token_id"));
  }
  return spec;
}

ModelSpec common_spec(const ConfigFile& config) {
  config.expect("hidden_act", "silu");
  ModelSpec spec;
  spec.hidden = config.positive("hidden_size");
  spec.vocabulary = config.positive("vocab_size");
  spec.max_positions = config.positive("max_position_embeddings");
  spec.norm_epsilon = static_cast<float>(config.number("rms_norm_eps"));
  if (spec.norm_epsilon < 0) config.fail("rms_norm_eps", "a number of at least 0");
  spec.embedding = whole("model.embed_tokens.weight", {spec.vocabulary, spec.hidden});
  spec.final_norm = rms_norm("model.norm.weight", spec.hidden, spec.norm_epsilon);
  spec.head = config.flag("tie_word_embeddings", false) ? spec.embedding
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
