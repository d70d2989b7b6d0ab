// Model folders, right and wrong.
#include "runtime/checkpoint/checkpoint.hpp"

#include "placement/input_error.hpp"
#include "runtime/checkpoint/check_weights.hpp"
#include "runtime/families/family.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>
#include <span>

namespace coterie {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

const std::filesystem::path kModels = std::filesystem::path(COTERIE_FIXTURES) / "models";

/// A copy of a fixture that a test may spoil.
class ModelFolder : public testing::Test {
 protected:
  void SetUp() override { copy("mixtral"); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void copy(const std::string& fixture) {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("coterie_model_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::copy(kModels / fixture, folder_, std::filesystem::copy_options::recursive);
  }
  void change_config(const std::string& field, const json& value) {
    std::ifstream in(folder_ / "config.json");
    json config = json::parse(in);
    if (value.is_discarded()) {
      config.erase(field);
    } else {
      config[field] = value;
    }
    std::ofstream(folder_ / "config.json") << config;
  }
  ModelSpec spec() const { return read_model_spec(folder_); }
  void check() const {
    const ModelSpec model = spec();
    check_weights(model, Checkpoint(folder_));
  }

  std::filesystem::path folder_;
};

TEST_F(ModelFolder, FixturesAreRight) {
  for (const char* name : {"mixtral", "mixtral-sharded", "olmoe", "olmoe-top1", "qwen2-moe", "qwen3-moe", "granitemoe",
                           "dense-ends", "dots1", "ernie4-5-moe", "glm4-moe", "granitemoeshared", "minimax-m2",
                           "mixtral-variants", "phimoe", "gpt-oss", "gpt-oss-mxfp4", "trained/top1", "trained/top2"}) {
    SCOPED_TRACE(name);
    std::filesystem::remove_all(folder_);
    copy(name);
    EXPECT_NO_THROW(check());
  }
}

TEST_F(ModelFolder, EveryNumberOfAFixtureIsAParameter) {
  for (const char* name :
       {"mixtral", "olmoe", "qwen2-moe", "qwen3-moe", "granitemoe", "dense-ends", "dots1", "ernie4-5-moe", "glm4-moe",
        "granitemoeshared", "minimax-m2", "mixtral-variants", "phimoe"}) {
    const SafetensorsFile file(kModels / name / "model.safetensors");
    std::int64_t numbers = 0;
    for (const auto& [tensor, view] : file.tensors())
      numbers += static_cast<std::int64_t>(view.bytes.size() / size_of(view.type));
    const ModelSpec model = read_model_spec(kModels / name);
    EXPECT_EQ(model.parameters(), numbers) << name;
    EXPECT_EQ(model.expert_parameters(1), model.expert_parameters()) << name;
    EXPECT_LT(model.active_parameters(), numbers) << name;
  }
}

TEST_F(ModelFolder, WeightsMayLieAcrossAStoredTensor) {
  SafetensorsWriter writer(folder_ / "model.safetensors");
  std::vector<float> numbers(2 * 6 * 4);
  std::iota(numbers.begin(), numbers.end(), 0.0F);
  writer.add("stack", ElementType::f32, {2, 6, 4}, std::as_bytes(std::span(numbers)));
  writer.add("biases", ElementType::f32, {2, 6}, std::as_bytes(std::span(numbers).first(12)));
  writer.finish();
  const Checkpoint checkpoint(folder_);
  const auto read = [&](const StackedRef& refs) {  // two rows at a time
    const WeightSource source = checkpoint.source(refs);
    std::vector<float> out(static_cast<std::size_t>(source.rows * source.cols));
    for (std::int64_t r = 0; r < source.rows; r += 2) {
      source.read(r, std::min<std::int64_t>(2, source.rows - r), &out[static_cast<std::size_t>(r * source.cols)]);
    }
    return out;
  };
  const WeightRef second = one_of("stack", {2, 6, 4}, 1);
  EXPECT_EQ(read({second.row_range(1, 2)}), (std::vector<float>{28, 29, 30, 31, 32, 33, 34, 35}));
  EXPECT_EQ(read({second.row_range(1, 3, 2)}), (std::vector<float>{28, 29, 30, 31, 36, 37, 38, 39, 44, 45, 46, 47}));
  EXPECT_EQ(read({second.transposed().row_range(0, 3)}),
            (std::vector<float>{24, 28, 32, 36, 40, 44, 25, 29, 33, 37, 41, 45, 26, 30, 34, 38, 42, 46}));
  EXPECT_EQ(read({second.transposed().row_range(1, 2, 2)}),
            (std::vector<float>{25, 29, 33, 37, 41, 45, 27, 31, 35, 39, 43, 47}));
  const WeightRef bias = one_of("biases", {2, 6}, 1);
  EXPECT_EQ(read({bias.row_range(0, 3, 2), bias.row_range(1, 3, 2)}), (std::vector<float>{6, 8, 10, 7, 9, 11}));
}

TEST_F(ModelFolder, CountsParameters) {
  const ModelSpec model = read_model_spec(kModels / "trained/top1");
  // By hand: embedding 2048 x 128, tied; 8 layers of 2 norms, attention of 4 heads and 2 KV heads of 32 with norms of q
  // and k, a router and 16 experts of three 128 x 128 matrices; the last norm.
  const std::int64_t layer = 2 * 128 + (128 + 64 + 64 + 128) * 128 + 128 + 64 + 16 * 128;
  EXPECT_EQ(model.dense_parameters(), 2048 * 128 + 8 * layer + 128);
  EXPECT_EQ(model.expert_parameters(), 8 * 16 * 3 * 128 * 128);
  EXPECT_EQ(model.active_parameters(), model.dense_parameters() + 8 * 3 * 128 * 128);
  EXPECT_EQ(model.kv_elements_per_token(), 8 * 2 * 64);
}

TEST_F(ModelFolder, BothSpellingsOfTheRotaryBaseGiveTheSame) {
  const auto older = spec().layers[0].attention.rotary.usual.inverse_frequencies;
  change_config("rope_theta", json(json::value_t::discarded));
  change_config("rope_parameters", {{"rope_theta", 1000000.0}, {"rope_type", "default"}});
  EXPECT_EQ(spec().layers[0].attention.rotary.usual.inverse_frequencies, older);
}

TEST_F(ModelFolder, WrongFieldsAreNamed) {
  const auto fails = [&](const std::string& field, const json& value, const std::string& part) {
    SCOPED_TRACE(field);
    copy("mixtral");
    change_config(field, value);
    EXPECT_THAT([&] { check(); },
                ThrowsMessage<InputError>(AllOf(HasSubstr(folder_.string()), HasSubstr(field), HasSubstr(part))));
  };
  fails("model_type", "gpt2", "qwen2_moe, qwen3_moe");
  fails("hidden_size", json(json::value_t::discarded), "found nothing");
  fails("hidden_size", "32", "found \"32\"");
  fails("num_hidden_layers", 0, "found 0");
  fails("num_hidden_layers", 2.5, "found 2.5");
  fails("num_hidden_layers", 2147483647, "found 2147483647");
  fails("num_local_experts", 2147483647, "found 2147483647");
  fails("rms_norm_eps", -1e-5, "at least 0");
  fails("eos_token_id", {2, std::int64_t{1} << 40}, "32 bits");
  fails("rope_parameters", {{"rope_theta", 0}, {"rope_type", "default"}}, "rope_parameters.rope_theta: found 0");
  fails("num_experts_per_tok", 9, "at most num_local_experts");
  fails("num_key_value_heads", 3, "a divisor");
  fails("hidden_act", "gelu", "\"silu\"");
  fails("attention_window_sinks", 4, "mixtral doesn't know what it means");
  fails("num_local_experts", {8, 8, 8}, "one for each of the num_hidden_layers layers");
  fails("num_local_experts", {8, 8, 8, 0}, "integers between 1");
  fails("router_top_p", 1.5, "at most 1");
  fails("expert_layers", {0, 0, 1, 3}, "itself, or an earlier one");
  fails("expert_layers", {0, 1, 2}, "for each layer");
  fails("rope_scaling", {{"rope_type", "mrope"}, {"factor", 4.0}}, "default, linear");
  fails("quantization_config", {{"quant_method", "awq"}}, "fp8 (F8_E4M3 with weight_scale_inv) or mxfp4");
}

TEST_F(ModelFolder, TensorsThatDoNotFitAreNamed) {
  change_config("intermediate_size", 48);
  EXPECT_THAT([&] { check(); }, ThrowsMessage<InputError>(AllOf(HasSubstr("model.safetensors"), HasSubstr("w1.weight"),
                                                                HasSubstr("[40, 32]"), HasSubstr("[48, 32]"))));
  copy("mixtral");
  change_config("num_hidden_layers", 5);
  EXPECT_THAT([&] { check(); },
              ThrowsMessage<InputError>(AllOf(HasSubstr("model.layers.4"), HasSubstr("no such tensor"))));
}

/// The tensors of the folder's model.safetensors and these.
void add_tensors(const std::filesystem::path& folder, const std::vector<std::string>& names) {
  const std::filesystem::path old = folder / "old.safetensors";
  std::filesystem::rename(folder / "model.safetensors", old);
  const SafetensorsFile from(old);
  SafetensorsWriter writer(folder / "model.safetensors");
  for (const auto& [name, view] : from.tensors()) writer.add(name, view.type, view.shape, view.bytes);
  const std::vector<float> numbers(4);
  for (const std::string& name : names) writer.add(name, ElementType::f32, {4}, std::as_bytes(std::span(numbers)));
  writer.finish();
}

TEST_F(ModelFolder, TensorsThatTheModelWouldNotUseAreNamed) {
  for (const char* name :
       {"model.layers.1.self_attn.q_proj.bias", "model.layers.0.block_sparse_moe.experts.8.w1.weight",
        "model.layers.3.mlp.gate_proj.weight", "model.norm.bias", "lm_head.bias"}) {
    SCOPED_TRACE(name);
    copy("mixtral");
    add_tensors(folder_, {name});
    EXPECT_THAT([&] { check(); },
                ThrowsMessage<InputError>(AllOf(HasSubstr("model.safetensors"), HasSubstr(name),
                                                HasSubstr("found F32 of shape [4]"), HasSubstr("config.json"))));
  }
}

TEST_F(ModelFolder, NumbersThatAreNoneAreNamed) {
  const std::string name = "model.layers.2.block_sparse_moe.experts.5.w2.weight";
  EXPECT_NO_THROW(expect_finite(spec(), Checkpoint(folder_)));
  for (const auto& [number, word] : {std::pair{std::nanf(""), "NaN"}, std::pair{-INFINITY, "infinity"}}) {
    copy("mixtral");
    const SafetensorsFile from(kModels / "mixtral" / "model.safetensors");
    SafetensorsWriter writer(folder_ / "model.safetensors");
    for (const auto& [tensor, view] : from.tensors()) {
      std::vector<std::byte> bytes(view.bytes.begin(), view.bytes.end());
      if (tensor == name) std::memcpy(&bytes[(view.shape[1] + 3) * sizeof number], &number, sizeof number);
      writer.add(tensor, view.type, view.shape, bytes);
    }
    writer.finish();
    EXPECT_NO_THROW(check());
    EXPECT_THAT([&] { expect_finite(spec(), Checkpoint(folder_)); },
                ThrowsMessage<InputError>(AllOf(HasSubstr("model.safetensors"), HasSubstr(name),
                                                HasSubstr(word + std::string(" at [1, 3]")), HasSubstr("expected"))));
  }
}

TEST_F(ModelFolder, PartsBesideTheModelArePassedOver) {
  add_tensors(folder_,
              {"model.layers.4.eh_proj.weight", "model.mtp_block.0.mlp.gate_proj.weight", "vision.patch.weight",
               "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.k_proj.k_scale"});
  EXPECT_NO_THROW(check());
  copy("mixtral");
  change_config("expert_layers", {0, 0, 2, 2});
  EXPECT_NO_THROW(check());
}

TEST_F(ModelFolder, AHeadThatIsTheEmbeddingMayBeThereAgainButNoOther) {
  for (const bool same : {true, false}) {
    copy("mixtral");
    change_config("tie_word_embeddings", true);
    const SafetensorsFile from(kModels / "mixtral" / "model.safetensors");
    SafetensorsWriter writer(folder_ / "model.safetensors");
    for (const auto& [name, view] : from.tensors()) {
      const bool head = same && name == "lm_head.weight";
      writer.add(name, view.type, view.shape, head ? from.at("model.embed_tokens.weight").bytes : view.bytes);
    }
    writer.finish();
    if (same) {
      EXPECT_NO_THROW(check());
    } else {
      EXPECT_THAT([&] { check(); },
                  ThrowsMessage<InputError>(HasSubstr("model.safetensors: lm_head.weight: found other numbers than in "
                                                      "model.embed_tokens.weight, expected the same")));
    }
  }
}

TEST_F(ModelFolder, MissingFilesAreNamed) {
  std::filesystem::remove(folder_ / "model.safetensors");
  EXPECT_THAT([&] { check(); }, ThrowsMessage<InputError>(HasSubstr("model.safetensors.index.json")));
  std::filesystem::remove(folder_ / "config.json");
  EXPECT_THAT([&] { check(); }, ThrowsMessage<InputError>(HasSubstr("config.json")));
  std::filesystem::create_directory(folder_ / "config.json");
  EXPECT_THAT([&] { check(); }, ThrowsMessage<InputError>(HasSubstr("config.json: is a folder")));
  copy("mixtral-sharded");
  std::filesystem::remove(folder_ / "model-00003-of-00004.safetensors");
  EXPECT_THAT([&] { check(); },
              ThrowsMessage<InputError>(
                  AllOf(HasSubstr("model.safetensors.index.json: weight_map.model.layers."),
                        HasSubstr("found \"model-00003-of-00004.safetensors\", expected the name of a file"))));
}

TEST_F(ModelFolder, TruncatedFilesAreRefused) {
  std::filesystem::resize_file(folder_ / "model.safetensors",
                               std::filesystem::file_size(folder_ / "model.safetensors") - 1);
  EXPECT_THAT([&] { check(); }, ThrowsMessage<InputError>(HasSubstr("model.safetensors")));
  copy("mixtral");
  std::ofstream(folder_ / "config.json") << "{\"model_type\": \"mixtral\",";
  EXPECT_THAT([&] { check(); }, ThrowsMessage<InputError>(HasSubstr("not valid JSON")));
}

TEST_F(ModelFolder, AnIndexThatLeavesTheFolderIsRefused) {
  copy("mixtral-sharded");
  std::ofstream(folder_ / "model.safetensors.index.json") << R"({"weight_map": {"x": "../model.safetensors"}})";
  EXPECT_THAT([&] { check(); }, ThrowsMessage<InputError>(HasSubstr("../model.safetensors")));
}

TEST(Expand, F16AndBf16AreExact) {
  const std::uint16_t f16[] = {0x0000, 0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00};
  float out[6];
  expand(ElementType::f16, std::as_bytes(std::span(f16)), out);
  EXPECT_EQ(out[0], 0.0F);
  EXPECT_EQ(out[1], 1.0F);
  EXPECT_EQ(out[2], -2.0F);
  EXPECT_EQ(out[3], 0x1p-24F);
  EXPECT_EQ(out[4], 65504.0F);
  EXPECT_TRUE(std::isinf(out[5]));
  const std::uint16_t bf16[] = {0x3f80, 0xc000, 0x0001};
  expand(ElementType::bf16, std::as_bytes(std::span(bf16)), out);
  EXPECT_EQ(out[0], 1.0F);
  EXPECT_EQ(out[1], -2.0F);
  EXPECT_EQ(out[2], 0x1p-133F);
}

}  // namespace
}  // namespace coterie
