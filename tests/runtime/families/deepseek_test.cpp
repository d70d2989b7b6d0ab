// DeepSeek's configs as they are published, and wrong ones.
#include "placement/input_error.hpp"
#include "runtime/families/family.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace coterie {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::ThrowsMessage;

json yarn(double mscale) {
  return {{"beta_fast", 32},  {"beta_slow", 1},           {"factor", 40},
          {"mscale", mscale}, {"mscale_all_dim", mscale}, {"original_max_position_embeddings", 4096},
          {"type", "yarn"}};
}

json v2_lite() {
  return {{"model_type", "deepseek_v2"},
          {"attention_bias", false},
          {"aux_loss_alpha", 0.001},
          {"eos_token_id", 100001},
          {"first_k_dense_replace", 1},
          {"hidden_act", "silu"},
          {"hidden_size", 2048},
          {"intermediate_size", 10944},
          {"kv_lora_rank", 512},
          {"max_position_embeddings", 163840},
          {"moe_intermediate_size", 1408},
          {"moe_layer_freq", 1},
          {"n_group", 1},
          {"n_routed_experts", 64},
          {"n_shared_experts", 2},
          {"norm_topk_prob", false},
          {"num_attention_heads", 16},
          {"num_experts_per_tok", 6},
          {"num_hidden_layers", 27},
          {"num_key_value_heads", 16},
          {"q_lora_rank", nullptr},
          {"qk_nope_head_dim", 128},
          {"qk_rope_head_dim", 64},
          {"rms_norm_eps", 1e-06},
          {"rope_scaling", yarn(0.707)},
          {"rope_theta", 10000},
          {"routed_scaling_factor", 1.0},
          {"scoring_func", "softmax"},
          {"seq_aux", true},
          {"tie_word_embeddings", false},
          {"topk_group", 1},
          {"topk_method", "greedy"},
          {"v_head_dim", 128},
          {"vocab_size", 102400}};
}

json v3() {
  json config = v2_lite();
  config.update({{"model_type", "deepseek_v3"},
                 {"ep_size", 1},
                 {"first_k_dense_replace", 3},
                 {"hidden_size", 7168},
                 {"intermediate_size", 18432},
                 {"moe_intermediate_size", 2048},
                 {"n_group", 8},
                 {"n_routed_experts", 256},
                 {"n_shared_experts", 1},
                 {"norm_topk_prob", true},
                 {"num_attention_heads", 128},
                 {"num_experts_per_tok", 8},
                 {"num_hidden_layers", 61},
                 {"num_key_value_heads", 128},
                 {"num_nextn_predict_layers", 1},
                 {"q_lora_rank", 1536},
                 {"rope_scaling", yarn(1)},
                 {"routed_scaling_factor", 2.5},
                 {"scoring_func", "sigmoid"},
                 {"topk_group", 4},
                 {"topk_method", "noaux_tc"},
                 {"vocab_size", 129280}});
  return config;
}

ModelSpec spec_of(const json& config) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "coterie_deepseek";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config;
  return read_model_spec(folder);
}

TEST(Deepseek, PublishedModelsHaveTheirSizes) {
  const ModelSpec lite = spec_of(v2_lite());
  EXPECT_EQ(lite.parameters(), 15'706'484'224);
  EXPECT_EQ(lite.kv_elements_per_token(), 27 * (512 + 64));
  EXPECT_EQ(lite.moe_layers(), 26);
  const ModelSpec large = spec_of(v3());
  EXPECT_EQ(large.parameters(), 671'026'419'200);
  EXPECT_EQ(large.kv_elements_per_token(), 61 * (512 + 64));
  EXPECT_EQ(large.moe_layer_ids().front(), 3);
  EXPECT_EQ(large.layers.size(), 61U);  // without the prediction layer
  json kimi = v3();
  kimi.update({{"model_type", "kimi_k2"}, {"n_group", 1}, {"topk_group", 1}, {"n_routed_experts", 384}});
  EXPECT_EQ(spec_of(kimi).experts(), 384);
}

TEST(Deepseek, DenseLayersAreWhereTheConfigSays) {
  json config = v2_lite();
  config.update({{"num_hidden_layers", 9}, {"first_k_dense_replace", 2}, {"moe_layer_freq", 3}});
  EXPECT_EQ(spec_of(config).moe_layer_ids(), (std::vector<int>{3, 6}));
}

TEST(Deepseek, WrongConfigsAreRefused) {
  const auto fails = [](json config, const std::string& field, const json& value, const std::string& says) {
    config[field] = value;
    EXPECT_THAT([&] { (void)spec_of(config); }, ThrowsMessage<InputError>(HasSubstr(says))) << field;
  };
  fails(v2_lite(), "topk_method", "noaux_tc", "group_limited_greedy");
  fails(v2_lite(), "scoring_func", "sigmoid", "softmax");
  fails(v2_lite(), "num_key_value_heads", 4, "num_key_value_heads");
  fails(v2_lite(), "kv_lora_rank", nullptr, "kv_lora_rank");
  fails(v2_lite(), "qk_rope_head_dim", 63, "an even number");
  fails(v3(), "scoring_func", "softmax", "sigmoid");
  fails(v3(), "topk_method", "greedy", "noaux_tc");
  fails(v3(), "n_group", 7, "n_group");
  fails(v3(), "topk_group", 9, "topk_group");
  fails(v3(), "num_experts_per_tok", 129, "topk_group");
  json grouped = v2_lite();
  grouped["topk_method"] = "group_limited_greedy";
  fails(grouped, "n_group", 5, "a divisor");
  fails(grouped, "topk_group", 2, "at most n_group");
}

}  // namespace
}  // namespace coterie
