#include "placement/trace/trace.hpp"

#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"
#include "tests/placement/mutate.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

namespace coterie {
namespace {

/// 4 tokens, 2 layers, k = 2 of 8; one choice is padded.
Trace small_trace() {
  Trace t;
  t.model = "a/model";
  t.num_experts = 8;
  t.top_k = 2;
  t.layer_ids = {1, 3};
  t.experts = {0, 1, 2, 3, 4, 5, 6, 7, 7, 0, 1, Trace::kNoExpert, 3, 2, 5, 4};
  t.weights = {.75F, .25F, .5F, .5F, 1, 0, .6F, .4F, .75F, .25F, 1, 0, .6F, .4F, .75F, .25F};
  t.sequence = {9, 9, 4, 4};
  t.position = {0, 1, 5, 6};
  return t;
}

void expect_equal(const Trace& a, const Trace& b) {
  EXPECT_EQ(a.model, b.model);
  EXPECT_EQ(a.num_experts, b.num_experts);
  EXPECT_EQ(a.top_k, b.top_k);
  EXPECT_EQ(a.layer_ids, b.layer_ids);
  EXPECT_EQ(a.gate_order, b.gate_order);
  EXPECT_EQ(a.experts, b.experts);
  EXPECT_EQ(a.weights, b.weights);
  EXPECT_EQ(a.sequence, b.sequence);
  EXPECT_EQ(a.position, b.position);
}

std::string refusal(const std::function<void(Trace&)>& damage) {
  Trace trace = small_trace();
  damage(trace);
  try {
    validate(trace, "t.safetensors");
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

TEST(Trace, WhatIsWrittenIsRead) {
  const ScratchFolder folder;
  Trace trace = small_trace();
  write_trace(folder / "t.safetensors", trace);
  expect_equal(read_trace(folder / "t.safetensors"), trace);
  EXPECT_EQ(SafetensorsFile(folder / "t.safetensors").at("experts").type, ElementType::u8);

  trace.num_experts = 256;
  trace.experts[0] = 255;
  trace.gate_order = GateOrder::unordered;
  trace.weights.clear();
  trace.sequence.clear();
  trace.position.clear();
  write_trace(folder / "t.safetensors", trace);
  expect_equal(read_trace(folder / "t.safetensors"), trace);
  EXPECT_EQ(SafetensorsFile(folder / "t.safetensors").at("experts").type, ElementType::u16)
      << "255 is an expert here, so U8 has no number left for padding";
}

TEST(Trace, ContradictionsAreRefused) {
  EXPECT_EQ(refusal([](Trace&) {}), "");
  const std::vector<std::pair<std::string, std::function<void(Trace&)>>> cases{
      {"experts[1, 0]", [](Trace& t) { t.experts[5] = 8; }},
      {"expert 4 twice", [](Trace& t) { t.experts[5] = 4; }},
      {"0 tokens", [](Trace& t) { t.experts.clear(), t.weights.clear(), t.sequence.clear(), t.position.clear(); }},
      {"a multiple of", [](Trace& t) { t.experts.pop_back(); }},
      {"layer_ids[1]",
       [](Trace& t) {
         t.layer_ids = {3, 3};
       }},
      {"layer_ids[0]",
       [](Trace& t) {
         t.layer_ids = {-1, 3};
       }},
      {"layer_ids", [](Trace& t) { t.layer_ids.clear(); }},
      {"top_k", [](Trace& t) { t.top_k = 9; }},
      {"num_experts", [](Trace& t) { t.num_experts = 0; }},
      {"weights", [](Trace& t) { t.weights.pop_back(); }},
      {"weights[1, 0, 1]", [](Trace& t) { t.weights[5] = std::numeric_limits<float>::quiet_NaN(); }},
      {"weights[0, 0, 0]", [](Trace& t) { t.weights[0] = std::numeric_limits<float>::infinity(); }},
      {"weights[0, 1, 0]", [](Trace& t) { t.weights[2] = -.5F; }},
      {"no more than the weight before it", [](Trace& t) { t.weights[1] = 2.F; }},
      {"nothing but padding", [](Trace& t) { std::fill(t.experts.begin(), t.experts.end(), Trace::kNoExpert); }},
      {"sequence", [](Trace& t) { t.sequence.pop_back(); }},
      {"lie together",
       [](Trace& t) {
         t.sequence = {9, 4, 9, 4};
       }},
      {"position[1]",
       [](Trace& t) {
         t.position = {1, 0, 5, 6};
       }},
      {"position[0]", [](Trace& t) { t.position[0] = -1; }},
  };
  for (const auto& [part, damage] : cases) {
    const std::string message = refusal(damage);
    EXPECT_NE(message.find("t.safetensors"), std::string::npos) << part << " -> " << message;
    EXPECT_NE(message.find(part), std::string::npos) << part << " -> " << message;
  }
}

TEST(Trace, WrongFilesAreRefused) {
  const ScratchFolder folder;
  using Fields = std::map<std::string, std::string>;
  const auto message = [&](const Fields& changes, ElementType type = ElementType::u8, const Shape& shape = {2, 1, 2}) {
    Fields fields{{"format", "coterie.trace/1"},
                  {"num_experts", "4"},
                  {"top_k", "2"},
                  {"layer_ids", "[0]"},
                  {"gate_order", "descending"}};
    for (const auto& [key, value] : changes) fields[key] = value;
    SafetensorsWriter writer(folder / "t.safetensors");
    for (const auto& [key, value] : fields)
      if (!value.empty()) writer.metadata(key, value);
    std::int64_t bytes = static_cast<std::int64_t>(size_of(type));
    for (const auto n : shape) bytes *= n;
    std::vector<std::uint8_t> data(static_cast<std::size_t>(bytes));
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = i % 2;
    writer.add("experts", type, shape, std::as_bytes(std::span(data)));
    writer.finish();
    try {
      static_cast<void>(read_trace(folder / "t.safetensors"));
      return std::string();
    } catch (const InputError& e) {
      return std::string(e.what());
    }
  };
  const auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text << " lacks " << part;
  };
  EXPECT_EQ(message({}), "");
  has(message({{"format", "coterie.trace/2"}}), "__metadata__.format");
  has(message({{"format", "coterie.load/1"}}), "__metadata__.format");
  has(message({{"format", ""}}), "__metadata__.format");
  has(message({{"num_experts", "four"}}), "__metadata__.num_experts");
  has(message({{"num_experts", "0"}}), "__metadata__.num_experts");
  has(message({{"num_experts", "70000"}}), "__metadata__.num_experts");
  has(message({{"num_experts", "300"}}), "dtype");
  has(message({{"top_k", "5"}}), "__metadata__.top_k");
  has(message({{"layer_ids", "[0"}}), "layer_ids");
  has(message({{"layer_ids", "[0, 1]"}}), "shape");
  has(message({{"layer_ids", "[0.5]"}}), "layer_ids: [0]");
  has(message({{"gate_order", "sorted"}}), "gate_order");
  has(message({}, ElementType::i32), "dtype");
  has(message({}, ElementType::u8, {0, 1, 2}), "0 tokens");
  has(message({}, ElementType::u8, {2, 2}), "shape");
}

TEST(Trace, DamagedFilesNeverCrash) {
  const ScratchFolder folder;
  write_trace(folder / "good", small_trace());
  expect_no_damage_crashes(read_bytes(folder / "good"), "t.safetensors", true, 5000,
                           [](const std::filesystem::path& path) { static_cast<void>(read_trace(path)); });
}

TEST(Half, EveryValueSurvivesAndFloatsRoundToNearestEven) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half = Half::from_bits(static_cast<std::uint16_t>(bits));
    const float value = half;
    if (half.is_finite()) {
      EXPECT_EQ(Half(value).bits(), bits);
    } else {
      EXPECT_FALSE(Half(value).is_finite());
    }
  }
  EXPECT_EQ(float(Half(1.F)), 1.F);
  EXPECT_EQ(float(Half(0x1p-24F)), 0x1p-24F);
  EXPECT_EQ(float(Half(0x1.8p-24F)), 0x1p-23F);
  EXPECT_EQ(float(Half(1.F + 0x1p-11F)), 1.F) << "a tie goes to the even one";
  EXPECT_EQ(float(Half(1.F + 0x1.8p-10F)), 1.F + 0x1p-9F);
  EXPECT_EQ(float(Half(65519.F)), 65504.F);
  EXPECT_FALSE(Half(65520.F).is_finite());
  EXPECT_EQ(float(Half(-2.5F)), -2.5F);
}

}  // namespace
}  // namespace coterie
