#include "runtime/text/tokenizer.hpp"

#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"
#include "runtime/text/text_decoder.hpp"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

namespace coterie {
namespace {

const std::filesystem::path kTrained = std::filesystem::path(COTERIE_FIXTURES) / "models/trained/top1";

/// A copy of the trained model's tokenizer in a folder of the test's own.
std::filesystem::path folder_with(const std::string& config) {
  auto folder = std::filesystem::path(testing::TempDir()) / ("tokenizer_test." + std::to_string(getpid()));
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  std::filesystem::copy(kTrained / "tokenizer.model", folder);
  if (!config.empty()) std::ofstream(folder / "tokenizer_config.json") << config;
  return folder;
}

std::vector<std::int32_t> ids(const SafetensorsFile& file, const std::string& name) {
  const auto bytes = file.at(name).bytes;
  std::vector<std::int64_t> wide(bytes.size() / sizeof(std::int64_t));
  std::memcpy(wide.data(), bytes.data(), bytes.size());
  return {wide.begin(), wide.end()};
}

TEST(Tokenizer, EncodesAndDecodesAsTheReferenceDid) {
  for (const char* model : {"top1", "top2"}) {
    const auto folder = kTrained.parent_path() / model;
    const auto tokenizer = load_tokenizer(folder);
    ASSERT_NE(tokenizer, nullptr);
    EXPECT_EQ(tokenizer->vocabulary(), 2048);
    const SafetensorsFile reference(folder / "reference.safetensors");
    for (int i = 0; i < 8; ++i) {
      const std::string n = std::to_string(i);
      const auto prompt = ids(reference, "prompt_" + n);
      const std::string& text = reference.metadata().at("text_" + n);
      EXPECT_EQ(tokenizer->encode(text), prompt) << text;
      EXPECT_EQ(decode(*tokenizer, prompt), text);
      EXPECT_EQ(tokenizer->encode(text, {.add_special_tokens = false}),
                std::vector<std::int32_t>(prompt.begin() + 1, prompt.end()));

      auto all = prompt;
      for (const std::int32_t id : ids(reference, "greedy_" + n)) all.push_back(id);
      EXPECT_EQ(decode(*tokenizer, all), text + reference.metadata().at("greedy_text_" + n));
    }
  }
}

TEST(Tokenizer, DecodesAnySequenceAsTheLibraryDoes) {
  const auto tokenizer = load_tokenizer(kTrained);
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load((kTrained / "tokenizer.model").string()).ok());
  std::mt19937 random(1);
  std::vector<std::int32_t> bytes;
  for (std::int32_t id = 0; id < tokenizer->vocabulary(); ++id) {
    if (tokenizer->piece(id).kind == Tokenizer::PieceKind::byte) bytes.push_back(id);
  }
  ASSERT_EQ(bytes.size(), 256U);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int> sequence;
    for (std::uint32_t n = random() % 40; n > 0; --n) {
      const bool byte = random() % 2 == 0;
      sequence.push_back(byte ? bytes[random() % 256] : static_cast<int>(random() % tokenizer->vocabulary()));
    }
    std::string expected;
    ASSERT_TRUE(library.Decode(sequence, &expected).ok());
    ASSERT_EQ(decode(*tokenizer, sequence), expected) << "round " << round;
  }
}

TEST(Tokenizer, TheConfigSaysWhichSpecialTokensAreAdded) {
  const auto with = [](const char* config) { return load_tokenizer(folder_with(config))->encode("In"); };
  const std::vector<std::int32_t> plain = load_tokenizer(kTrained)->encode("In", {.add_special_tokens = false});
  auto begin = plain;
  begin.insert(begin.begin(), 1);
  auto both = begin;
  both.push_back(2);
  EXPECT_EQ(with(""), begin);
  EXPECT_EQ(with("{}"), begin);
  EXPECT_EQ(with(R"({"add_bos_token": null})"), begin);
  EXPECT_EQ(with(R"({"add_bos_token": false})"), plain);
  EXPECT_EQ(with(R"({"add_eos_token": true})"), both);
}

TEST(Tokenizer, SpecialTokensInATextAreJustText) {
  const auto tokenizer = load_tokenizer(kTrained);
  const auto encoded = tokenizer->encode("a</s>b");
  EXPECT_EQ(std::count(encoded.begin(), encoded.end(), 2), 0);
  EXPECT_EQ(decode(*tokenizer, encoded), "a</s>b");
}

TEST(Tokenizer, SpecialTokensAreObeyedWhereAsked) {
  const auto tokenizer = load_tokenizer(kTrained);
  const auto plain = [&](const char* text) { return tokenizer->encode(text, {.add_special_tokens = false}); };
  std::vector<std::int32_t> expected{1};
  for (const std::int32_t id : plain("In")) expected.push_back(id);
  expected.insert(expected.end(), {2, 2});
  for (const std::int32_t id : plain("the <s")) expected.push_back(id);
  const EncodeOptions obey{.add_special_tokens = false, .parse_special_tokens = true};
  EXPECT_EQ(tokenizer->encode("<s>In</s></s>the <s", obey), expected);
  EXPECT_EQ(tokenizer->special_token("</s>"), 2);
  EXPECT_EQ(tokenizer->special_token("the"), std::nullopt);
  EXPECT_EQ(tokenizer->begin_of_sequence(), 1);
  EXPECT_EQ(tokenizer->end_of_sequence(), 2);
}

TEST(Tokenizer, NoSpecialTokenIsParsedAcrossABorder) {
  const auto tokenizer = load_tokenizer(kTrained);
  const auto encode = [&](const std::vector<std::size_t>& borders) {
    return tokenizer->encode("</s></s>",
                             {.add_special_tokens = false, .parse_special_tokens = true, .borders = borders});
  };
  auto first_as_text = tokenizer->encode("</s>", {.add_special_tokens = false});
  first_as_text.push_back(2);
  EXPECT_EQ(encode({1}), first_as_text);
  EXPECT_EQ(encode({3}), first_as_text);
  EXPECT_EQ(encode({0, 4, 8}), (std::vector<std::int32_t>{2, 2})) << "borders beside them";
  EXPECT_EQ(encode({1, 5}), tokenizer->encode("</s></s>", {.add_special_tokens = false}));
}

TEST(Tokenizer, AFolderWithoutOneIsNoError) {
  EXPECT_EQ(load_tokenizer(std::filesystem::path(COTERIE_FIXTURES) / "models/mixtral"), nullptr);
}

TEST(Tokenizer, ABrokenFileIsNamedAndNothingElseIsPrinted) {
  testing::internal::CaptureStderr();
  const auto folder = folder_with("");
  for (const std::uintmax_t size : {std::uintmax_t{0}, std::uintmax_t{100}, std::uintmax_t{20'000}}) {
    std::filesystem::copy(kTrained / "tokenizer.model", folder, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(folder / "tokenizer.model", size);
    try {
      static_cast<void>(load_tokenizer(folder));
      ADD_FAILURE() << "accepted " << size << " bytes";
    } catch (const InputError& e) {
      EXPECT_NE(std::string(e.what()).find("tokenizer.model"), std::string::npos) << e.what();
    }
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  for (const char* config : {"[]", "{", R"({"add_bos_token": 1})"}) {
    EXPECT_THROW(static_cast<void>(load_tokenizer(folder_with(config))), InputError) << config;
  }
}

}  // namespace
}  // namespace coterie
