// Quantised weights, as numbers and as files that are wrong.
#include "placement/input_error.hpp"
#include "runtime/checkpoint/checkpoint.hpp"
#include "runtime/checkpoint/config_file.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

namespace coterie {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

using Bytes = std::vector<std::uint8_t>;

/// By the definition of the type: a sign, 4 bits of exponent, 3 of mantissa, only all ones is no number.
double e4m3(std::uint8_t bits) {
  const int exponent = bits >> 3 & 15;
  const int mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  const double value =
      exponent == 0 ? mantissa / 8.0 * std::pow(2, -6) : (1 + mantissa / 8.0) * std::pow(2, exponent - 7);
  return bits >= 128 ? -value : value;
}

double e2m1(int bits) {
  const double magnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return bits >= 8 ? -magnitudes[bits - 8] : magnitudes[bits];
}

/// A folder with a config and arrays, some of them quantised.
class StoredTensorTest : public testing::Test {
 protected:
  template <class T>
  void add(const std::string& name, ElementType type, const Shape& shape, const std::vector<T>& numbers) {
    writer_->add(name, type, shape, std::as_bytes(std::span(numbers)));
  }
  void config(const std::string& quantization) {
    write_bytes(folder_ / "config.json", "{\"quantization_config\": " + quantization + "}");
  }
  Checkpoint checkpoint() {
    if (writer_) writer_->finish();
    writer_.reset();
    return Checkpoint(folder_ / "");
  }
  Bytes drawn(std::int64_t count) {
    Bytes out(static_cast<std::size_t>(count));
    for (std::uint8_t& byte : out) byte = static_cast<std::uint8_t>(random_());
    return out;
  }
  /// `ref` in pieces of `rows` rows, through `read`, and through read_bf16 where the source has it.
  static std::vector<float> values(const Checkpoint& from, const WeightRef& ref, std::int64_t rows) {
    const WeightSource source = from.source({ref});
    std::vector<float> out(static_cast<std::size_t>(ref.rows * ref.cols));
    for (std::int64_t first = 0; first < ref.rows; first += rows) {
      const std::int64_t count = std::min(rows, ref.rows - first);
      float* const at = out.data() + first * ref.cols;
      source.read(first, count, at);
      EXPECT_EQ(source.fits_bf16, source.read_bf16 != nullptr);
      if (!source.read_bf16) continue;
      std::vector<std::uint16_t> halves(static_cast<std::size_t>(count * ref.cols));
      source.read_bf16(first, count, halves.data());
      for (std::size_t i = 0; i < halves.size(); ++i) {
        const auto bits = std::bit_cast<std::uint32_t>(at[i]);
        EXPECT_TRUE(bits == std::uint32_t{halves[i]} << 16 || std::isnan(at[i])) << at[i];
      }
    }
    return out;
  }
  static void expect_same(float actual, double expected) {
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(actual));
    } else {
      EXPECT_EQ(actual, static_cast<float>(expected));
    }
  }

  const unsigned seed_ = std::random_device{}();
  std::mt19937 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, "seed " + std::to_string(seed_)};
  ScratchFolder folder_;
  std::unique_ptr<SafetensorsWriter> writer_ = std::make_unique<SafetensorsWriter>(folder_ / "model.safetensors");
};

TEST_F(StoredTensorTest, Fp8HasAScaleForEachBlock) {
  config(R"({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [4, 6]})");
  const Bytes numbers = drawn(2 * 10 * 15);
  std::vector<float> scales(2 * 3 * 3);  // blocks at the edges are smaller
  for (float& scale : scales) scale = std::uniform_real_distribution<float>(0.001F, 2)(random_);
  add("w", ElementType::f8_e4m3, {2, 10, 15}, numbers);
  add("w_scale_inv", ElementType::f32, {2, 3, 3}, scales);
  const Checkpoint from = checkpoint();
  const auto expected = [&](std::size_t matrix, std::size_t row, std::size_t col) {
    return static_cast<float>(e4m3(numbers[(matrix * 10 + row) * 15 + col])) *
           scales[(matrix * 3 + row / 4) * 3 + col / 6];
  };
  for (const std::int64_t rows : {1, 3, 20}) {
    const auto all = values(from, whole("w", {2, 10, 15}), rows);
    const auto second = values(from, one_of("w", {2, 10, 15}, 1).row_range(1, 4, 2), rows);
    const auto turned = values(from, one_of("w", {2, 10, 15}, 1).transposed(), rows);
    for (std::size_t row = 0; row < 10; ++row) {
      for (std::size_t col = 0; col < 15; ++col) {
        for (const std::size_t m : {0U, 1U}) expect_same(all[(m * 10 + row) * 15 + col], expected(m, row, col));
        if (row % 2 == 1 && row < 9) expect_same(second[row / 2 * 15 + col], expected(1, row, col));
        expect_same(turned[col * 10 + row], expected(1, row, col));
      }
    }
  }
  EXPECT_FALSE(from.source(StackedRef{whole("w", {2, 10, 15})}).fits_bf16);
}

TEST_F(StoredTensorTest, Fp8WithPowersOfTwoFitsBf16) {
  config(R"({"quant_method": "fp8", "weight_block_size": [2, 2]})");
  Bytes numbers(256);
  for (std::size_t i = 0; i < 256; ++i) numbers[i] = static_cast<std::uint8_t>(i);
  add("w", ElementType::f8_e4m3, {128, 2}, numbers);
  const Bytes exponents = drawn(64);
  Bytes moderate;
  for (const std::uint8_t e : exponents) moderate.push_back(static_cast<std::uint8_t>(64 + e / 2));
  add("w_scale_inv", ElementType::f8_e8m0, {64, 1}, moderate);
  const Checkpoint from = checkpoint();
  EXPECT_TRUE(from.source(StackedRef{whole("w", {128, 2})}).fits_bf16);
  const auto got = values(from, whole("w", {128, 2}), 50);
  for (std::size_t i = 0; i < 256; ++i) {
    expect_same(got[i], e4m3(numbers[i]) * std::pow(2, moderate[i / 4] - 127));
  }
}

TEST_F(StoredTensorTest, Fp8WithOneScaleForAMatrix) {
  config(R"({"quant_method": "fp8", "weight_block_size": null, "activation_scheme": "static"})");
  add("w", ElementType::f8_e4m3, {2, 3}, Bytes{0x38, 0x40, 0x01, 0xb8, 0x7e, 0x00});
  add("w_scale_inv", ElementType::bf16, {}, std::vector<std::uint16_t>{0x3fc0});  // 1.5
  const auto got = values(checkpoint(), whole("w", {2, 3}), 2);
  EXPECT_EQ(got, (std::vector<float>{1.5F, 3, 1.5F * 0x1p-9F, -1.5F, 1.5F * 448, 0}));
}

TEST_F(StoredTensorTest, Mxfp4IsTwoNumbersAByteAndAScaleForThirtyTwo) {
  config(R"({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})");
  const Bytes blocks = drawn(3 * 6 * 2 * 16);
  Bytes scales = drawn(3 * 6 * 2);
  scales[0] = 0;
  scales[1] = 254;
  add("w_blocks", ElementType::u8, {3, 6, 2, 16}, blocks);
  add("w_scales", ElementType::u8, {3, 6, 2}, scales);
  const Checkpoint from = checkpoint();
  const auto expected = [&](std::size_t i) {
    const int byte = blocks[i / 2];
    const double scale = scales[i / 32] == 255 ? std::nan("") : std::pow(2, scales[i / 32] - 127);
    return static_cast<double>(static_cast<float>(e2m1(i % 2 == 0 ? byte & 15 : byte >> 4) * scale));
  };
  const Shape shape{3, 6, 64};
  for (const std::int64_t rows : {1, 5, 100}) {
    const auto all = values(from, whole("w", shape), rows);
    const auto odd = values(from, one_of("w", shape, 2).row_range(1, 3, 2), rows);
    const auto turned = values(from, one_of("w", shape, 1).transposed(), rows);
    for (std::size_t i = 0; i < all.size(); ++i) expect_same(all[i], expected(i));
    for (std::size_t i = 0; i < odd.size(); ++i) expect_same(odd[i], expected((13 + i / 64 * 2) * 64 + i % 64));
    for (std::size_t i = 0; i < turned.size(); ++i) expect_same(turned[i], expected((6 + i % 6) * 64 + i / 6));
  }
}

TEST_F(StoredTensorTest, WhatDoesNotFitIsNamed) {
  config(R"({"quant_method": "fp8", "weight_block_size": [128, 128]})");
  add("vector", ElementType::f8_e4m3, {3}, Bytes(3));
  add("bare", ElementType::f8_e4m3, {2, 3}, Bytes(6));
  add("shape", ElementType::f8_e4m3, {129, 3}, Bytes(387));
  add("shape_scale_inv", ElementType::f32, {1, 1}, std::vector<float>{1});
  add("type", ElementType::f8_e4m3, {2, 3}, Bytes(6));
  add("type_scale_inv", ElementType::i32, {1, 1}, std::vector<std::int32_t>{1});
  add("e5m2", ElementType::f8_e5m2, {2, 3}, Bytes(6));
  add("x_blocks", ElementType::u8, {2, 1, 16}, Bytes(32));
  const auto fails = [](const Checkpoint& from, const WeightRef& ref, const std::vector<std::string>& parts) {
    SCOPED_TRACE(ref.tensor);
    try {
      from.check(ref);
      ADD_FAILURE() << "was taken";
    } catch (const InputError& e) {
      for (const std::string& part : parts) EXPECT_THAT(e.what(), HasSubstr(part));
    }
  };
  const Checkpoint from = checkpoint();
  fails(from, whole("vector", {3}), {"model.safetensors", "vector", "F8_E4M3"});
  fails(from, whole("bare", {2, 3}), {"bare_scale_inv", "no such tensor", "[1, 1]"});
  fails(from, whole("shape", {129, 3}), {"model.safetensors", "shape_scale_inv", "[1, 1]", "[2, 1]"});
  fails(from, whole("type", {2, 3}), {"type_scale_inv", "I32", "F32"});
  fails(from, whole("e5m2", {2, 3}), {"e5m2", "F8_E5M2", "F32, F16 or BF16"});
  fails(from, whole("x", {2, 32}), {"x", "no such tensor"});

  config(R"({"quant_method": "mxfp4"})");
  const Checkpoint other(folder_ / "");
  fails(other, whole("bare", {2, 3}), {"bare", "F8_E4M3", "F32, F16 or BF16"});
  fails(other, whole("x", {2, 32}), {"x_scales", "no such tensor", "[2, 1]"});
  fails(other, whole("x", {2, 64}), {"x_blocks", "[2, 1, 16]", "[2, 2, 16]"});
  fails(other, whole("x", {2, 33}), {"x", "multiple of 32"});
}

TEST_F(StoredTensorTest, OtherMethodsAreRefusedWithTheListOfThoseSupported) {
  for (const char* method : {"awq", "gptq", "bitsandbytes", "compressed-tensors", "modelopt"}) {
    config("{\"quant_method\": \"" + std::string(method) + "\", \"bits\": 4}");
    EXPECT_THAT([&] { (void)read_quantization(ConfigFile(folder_ / "config.json")); },
                ThrowsMessage<InputError>(AllOf(HasSubstr("config.json"), HasSubstr("quantization_config.quant_method"),
                                                HasSubstr(method), HasSubstr("fp8"), HasSubstr("mxfp4"))));
  }
  const auto fails = [&](const std::string& quantization, const std::string& part) {
    config(quantization);
    EXPECT_THAT([&] { (void)read_quantization(ConfigFile(folder_ / "config.json")); },
                ThrowsMessage<InputError>(HasSubstr(part)));
  };
  fails(R"({"load_in_8bit": true})", "quant_method: found nothing");
  fails(R"({"quant_method": "fp8", "fmt": "e5m2"})", "e4m3");
  fails(R"({"quant_method": "fp8", "weight_block_size": [128]})", "weight_block_size");
  fails(R"({"quant_method": "fp8", "weight_block_size": [128, 0]})", "weight_block_size");
  fails(R"({"quant_method": "fp8", "rotation": true})", "rotation");
  fails(R"({"quant_method": "mxfp4", "modules_to_not_convert": ["a("]})", "regular expressions");
}

TEST_F(StoredTensorTest, ModulesAreLeftOutByNamePatternOrEnding) {
  config(R"({"quant_method": "mxfp4",
             "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.1", "lm_head", "router"]})");
  const Quantization quantization = read_quantization(ConfigFile(folder_ / "config.json"));
  EXPECT_TRUE(quantization.converts("model.layers.0.mlp.experts"));
  EXPECT_TRUE(quantization.converts("model.layers.11.mlp.experts"));
  EXPECT_FALSE(quantization.converts("model.layers.1.mlp.experts"));
  EXPECT_FALSE(quantization.converts("model.layers.7.self_attn.q_proj"));
  EXPECT_FALSE(quantization.converts("lm_head"));
  EXPECT_FALSE(quantization.converts("model.layers.2.mlp.router"));
  EXPECT_FALSE(Quantization{}.converts("model.layers.0.mlp.experts"));
}

}  // namespace
}  // namespace coterie
