// Descriptions of models from their configs alone, without weights.
#include "runtime/families/family.hpp"

#include "placement/files/json_view.hpp"
#include "placement/input_error.hpp"
#include "runtime/families/routing_variants.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace coterie {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

const std::filesystem::path kFixtures = COTERIE_FIXTURES;

ModelSpec published(const std::string& name) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / ("coterie_config_" + name);
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(kFixtures / "configs" / (name + ".json"), folder / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  ModelSpec spec = read_model_spec(folder);
  std::filesystem::remove_all(folder);
  return spec;
}

struct Published {
  const char* name;
  double billions;         ///< of parameters, as the model's makers say
  double active_billions;  ///< that a token meets
};

TEST(PublishedConfigs, AreTakenAndHaveAsManyParametersAsTheirMakersSay) {
  for (const auto& [name, billions, active] :
       {Published{"Mixtral-8x7B-v0.1", 46.7, 12.9}, Published{"OLMoE-1B-7B-0924", 6.92, 1.28},
        Published{"Qwen1.5-MoE-A2.7B", 14.3, 2.69}, Published{"Qwen3-30B-A3B", 30.5, 3.35},
        Published{"granite-3.0-1b-a400m", 1.33, 0.43}, Published{"Phi-3.5-MoE", 41.9, 6.6},
        Published{"GLM-4.5-Air", 106.8, 13.5}, Published{"ERNIE-4.5-21B-A3B", 21.8, 3.4},
        Published{"MiniMax-M2", 228.7, 11.0}, Published{"dots.llm1", 142.8, 14.5}, Published{"gpt-oss-20b", 20.9, 4.19},
        Published{"GLM-4.7-Flash", 29.9, 3.9}, Published{"Qwen3-Coder-480B-A35B", 480.2, 35.5}}) {
    SCOPED_TRACE(name);
    const ModelSpec spec = published(name);
    EXPECT_NEAR(static_cast<double>(spec.parameters()) / 1e9, billions, 0.01 * billions);
    EXPECT_NEAR(static_cast<double>(spec.active_parameters()) / 1e9, active, 0.04 * active);
  }
}

TEST(PublishedConfigs, LayersWithoutExpertsAreNotCountedAsMoeLayers) {
  const ModelSpec spec = published("GLM-4.5-Air");
  EXPECT_EQ(spec.layers.size(), 46U);
  EXPECT_EQ(spec.moe_layers(), 45);
  EXPECT_EQ(spec.moe_layer_ids().front(), 1);
  EXPECT_EQ(spec.kv_elements_per_token(), 46 * 2 * 8 * 128);
}

ModelSpec written(const nlohmann::json& config) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "coterie_changed_config";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config;
  return read_model_spec(folder);
}

/// A published config with other fields; null takes one away.
ModelSpec changed(const std::string& name, const nlohmann::json& fields) {
  nlohmann::json config = read_json(kFixtures / "configs" / (name + ".json"));
  config.merge_patch(fields);
  return written(config);
}

TEST(PublishedConfigs, WhatTheyLeaveOutMeansWhatItMeansToTransformers) {
  const ModelSpec oss = published("gpt-oss-20b");
  const RotarySpec& said = oss.layers.front().attention.rotary;
  const ModelSpec silent = changed("gpt-oss-20b", {{"rope_scaling", nullptr}, {"rope_theta", nullptr}});
  const RotarySpec& meant = silent.layers.front().attention.rotary;
  EXPECT_EQ(meant.usual.inverse_frequencies, said.usual.inverse_frequencies);
  EXPECT_EQ(meant.usual.scale, said.usual.scale);

  const ModelSpec mixtral = changed("Mixtral-8x7B-v0.1", {{"rope_theta", nullptr}});
  EXPECT_EQ(mixtral.layers.front().attention.rotary.usual.inverse_frequencies,
            published("Mixtral-8x7B-v0.1").layers.front().attention.rotary.usual.inverse_frequencies);
}

TEST(PublishedConfigs, DenseLayersThatTheyLeaveOutAreThere) {
  EXPECT_EQ(changed("GLM-4.5-Air", {{"first_k_dense_replace", nullptr}}).moe_layer_ids().front(), 1);
  EXPECT_EQ(changed("dots.llm1", {{"first_k_dense_replace", nullptr}}).moe_layer_ids().front(), 0);
}

TEST(PublishedConfigs, NullIsNotTakenForTrue) {
  nlohmann::json config = read_json(kFixtures / "configs" / "GLM-4.5-Air.json");
  config["use_qk_norm"] = nullptr;
  EXPECT_FALSE(written(config).layers.front().attention.q_norm);
  config["norm_topk_prob"] = nullptr;
  EXPECT_THAT([&] { (void)written(config); },
              ThrowsMessage<InputError>(HasSubstr("norm_topk_prob: found null, expected true or false")));
}

TEST(PublishedConfigs, StretchedModelsTakeSequencesAsLongAsTheyAreStretchedTo) {
  EXPECT_EQ(published("Qwen3-30B-A3B").max_positions, 40960);
  const nlohmann::json yarn{{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  EXPECT_EQ(changed("Qwen3-30B-A3B", {{"rope_scaling", yarn}}).max_positions, 131072);
  const nlohmann::json dynamic{{"type", "dynamic"}, {"factor", 2.5}};
  EXPECT_EQ(changed("Qwen3-30B-A3B", {{"rope_scaling", dynamic}}).max_positions, 102400);
}

TEST(PublishedConfigs, AWindowThatNoLayerHasDoesNoHarm) {
  for (const char* name : {"dots.llm1", "Qwen1.5-MoE-A2.7B", "Qwen3-30B-A3B"}) {
    const ModelSpec spec = changed(name, {{"sliding_window", 4096}});
    for (const LayerSpec& layer : spec.layers) EXPECT_EQ(layer.attention.shape.window, 0) << name;
  }
}

TEST(PublishedConfigs, NotesOfOtherProgramsDoNoHarm) {
  EXPECT_NO_THROW((void)changed("ERNIE-4.5-21B-A3B", {{"use_rmsnorm", true}, {"is_quantized", false}}));
  EXPECT_NO_THROW((void)changed("Qwen3-30B-A3B", {{"unsloth_fixed", true}, {"_attn_implementation_autoset", true}}));
}

TEST(PublishedConfigs, WhatTheFamilyDoesNotComputeIsRefused) {
  for (const auto& [field, value] : {std::pair<const char*, nlohmann::json>{"qkv_bias", true},
                                     {"use_qk_norm", false},
                                     {"shared_expert_intermediate_size", 512}}) {
    EXPECT_THAT(([&, name = field, wrong = value] {
                  (void)changed("Qwen3-Coder-480B-A35B", {{name, wrong}});
                }),
                ThrowsMessage<InputError>(HasSubstr(field)));
  }
}

TEST(ExpertsPerToken, ReplaceTheConfigsNumber) {
  ModelSpec spec = read_model_spec(kFixtures / "models" / "qwen3-moe");
  const std::int64_t expert = 3 * 24 * 32;
  const std::int64_t before = spec.active_parameters();
  set_experts_per_token(spec, 1, "--experts-per-token");
  EXPECT_EQ(spec.top_k(), 1);
  EXPECT_EQ(before - spec.active_parameters(), 3 * 3 * expert);  // at 3 layers, of 4 experts
  EXPECT_THAT([&] { set_experts_per_token(spec, 17, "--experts-per-token"); },
              ThrowsMessage<InputError>(AllOf(HasSubstr("--experts-per-token: found 17"), HasSubstr("1 to 16"))));
}

TEST(ExpertsPerToken, MayNotExceedWhatTheGroupsAllow) {
  ModelSpec spec = read_model_spec(kFixtures / "models" / "glm4-moe");  // 2 of 4 groups of 2
  EXPECT_NO_THROW(set_experts_per_token(spec, 4, "--experts-per-token"));
  EXPECT_THROW(set_experts_per_token(spec, 5, "--experts-per-token"), InputError);
}

TEST(ExpertsPerToken, MayNotChangeWhatSparseMixerIs) {
  ModelSpec spec = read_model_spec(kFixtures / "models" / "phimoe");
  EXPECT_NO_THROW(set_experts_per_token(spec, 2, "--experts-per-token"));
  EXPECT_THROW(set_experts_per_token(spec, 3, "--experts-per-token"), InputError);
}

TEST(RoutingVariants, SharedExpertsCountOnce) {
  const ModelSpec spec = read_model_spec(kFixtures / "models" / "mixtral-variants");
  const std::int64_t expert = 3 * 48 * 32;
  EXPECT_EQ(spec.expert_parameters(), (8 + 6 + 5) * expert);   // layer 1 uses layer 0's
  EXPECT_EQ(spec.expert_parameters(2), (4 + 4 + 4) * expert);  // the first rank's half of 8
  EXPECT_EQ(spec.active_parameters() - spec.dense_parameters(), (3 + 3 + 2 + 1) * expert);
  EXPECT_EQ(spec.experts(), 8);
  EXPECT_EQ(spec.top_k(), 3);
}

}  // namespace
}  // namespace coterie
