#include "placement/input_error.hpp"
#include "runtime/text/text_decoder.hpp"
#include "runtime/text/tokenizer.hpp"
#include "runtime/text/utf8.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace coterie {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::filesystem::path kFixtures = std::filesystem::path(COTERIE_FIXTURES) / "tokenizers";
constexpr EncodeOptions kLiterally{.add_special_tokens = false};
constexpr EncodeOptions kObeying{.add_special_tokens = false, .parse_special_tokens = true};

Json read(const std::filesystem::path& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

/// A folder of the test's own with this tokenizer.json and tokenizer_config.json.
std::filesystem::path folder_with(const Json& tokenizer, const Json& config = nullptr) {
  const auto folder = std::filesystem::path(testing::TempDir()) / ("json_tokenizer_test." + std::to_string(getpid()));
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "tokenizer.json") << tokenizer;
  if (!config.is_null()) std::ofstream(folder / "tokenizer_config.json") << config;
  return folder;
}

class JsonTokenizerTest : public testing::TestWithParam<const char*> {
 protected:
  const std::filesystem::path folder_ = kFixtures / GetParam();
  const std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer(folder_);
};

TEST_P(JsonTokenizerTest, GivesTheIdsAndTextsThatHfGives) {
  const Json texts = read(kFixtures / "texts.json"), expected = read(folder_ / "expected.json");
  ASSERT_EQ(texts.size(), expected.at("literal").size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string text = texts[i];
    const Ids literal = expected["literal"][i];
    ASSERT_EQ(tokenizer_->encode(text), literal) << text;
    const Ids parsed = expected["parsed"][i].is_null() ? literal : expected["parsed"][i].get<Ids>();
    ASSERT_EQ(tokenizer_->encode(text, kObeying), parsed) << text;
    const auto decoded = expected["decoded"].find(std::to_string(i));
    ASSERT_EQ(decode(*tokenizer_, parsed), decoded == expected["decoded"].end() ? text : decoded->get<std::string>());
    Ids scattered(std::min<std::size_t>(literal.size(), 40));
    for (std::size_t k = 0; k < scattered.size(); ++k) scattered[k] = literal[k * 7919 % scattered.size()];
    ASSERT_EQ(decode(*tokenizer_, scattered), expected["scattered"][i].get<std::string>()) << text;
  }
}

TEST_P(JsonTokenizerTest, EveryPartOfADecodedTextIsWholeUtf8) {
  for (const Json& text : read(kFixtures / "texts.json")) {
    TextDecoder decoder(*tokenizer_);
    for (const std::int32_t id : tokenizer_->encode(text.get<std::string>())) {
      ASSERT_TRUE(is_valid(decoder.add(id)));
      ASSERT_TRUE(is_valid(decoder.pending()));
    }
    ASSERT_TRUE(is_valid(decoder.finish()));
  }
}

TEST_P(JsonTokenizerTest, LongRunsTakeNoQuadraticTime) {
  constexpr std::size_t kLong = 300'000;
  const auto run = [&](const std::string& part) {
    std::string text;
    while (text.size() < kLong) text += part;
    return text;
  };
  for (const std::string& text :
       {run("a"), run(" "), run(" ") + "1", run("\n") + "x", run("\t") + ".", run("<"), run("a\u0301")}) {
    EXPECT_FALSE(tokenizer_->encode(text).empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Families, JsonTokenizerTest,
                         testing::Values("gpt2", "llama3", "qwen2", "o200k", "granite", "olmoe", "deepseek-v2",
                                         "deepseek-v3", "mixtral", "no-bytes", "phi3", "ernie", "metaspace"),
                         [](const auto& family) {
                           std::string name = family.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(JsonTokenizer, SpecialTokensHaveNamesAndNoText) {
  const auto tokenizer = load_tokenizer(
      folder_with(read(kFixtures / "qwen2/tokenizer.json"), {{"bos_token", nullptr},
                                                             {"eos_token", {{"content", "<|im_end|>"}}},
                                                             {"additional_special_tokens", {"</think>", "<|new|>"}}}));
  const auto end = tokenizer->special_token("<|im_end|>");
  ASSERT_TRUE(end);
  EXPECT_EQ(tokenizer->end_of_sequence(), end);
  EXPECT_EQ(tokenizer->begin_of_sequence(), std::nullopt);
  EXPECT_EQ(tokenizer->special_token("<think>"), std::nullopt) << "an added token that is text";
  EXPECT_TRUE(tokenizer->special_token("</think>")) << "the configuration says so";
  EXPECT_EQ(tokenizer->special_token("<|new|>"), tokenizer->vocabulary() - 1) << "a token of the configuration alone";
  const Ids ids = tokenizer->encode("<think>a</think><|im_end|>", kObeying);
  EXPECT_EQ(ids.size(), 4U);
  EXPECT_EQ(decode(*tokenizer, ids), "<think>a");
  EXPECT_EQ(decode(*tokenizer, tokenizer->encode("<|im_end|>")), "<|im_end|>");
  EXPECT_EQ(decode(*tokenizer, Ids{*end, -1, 1'000'000, *end}), "");
}

TEST(JsonTokenizer, NoSpecialTokenCrossesABorder) {
  const auto tokenizer = load_tokenizer(kFixtures / "qwen2");
  const std::string text = "<|im_end|><|im_end|><think>";
  const std::int32_t end = *tokenizer->special_token("<|im_end|>");
  const std::size_t think = tokenizer->encode("<think>").size();
  const auto encoded = [&](const std::vector<std::size_t>& borders) {
    return tokenizer->encode(text, {.add_special_tokens = false, .parse_special_tokens = true, .borders = borders});
  };
  EXPECT_EQ(encoded({}).size(), 2 + think);
  EXPECT_EQ(encoded({10, 20, 23}).size(), 2 + think) << "between tokens, and in one that is not special";
  Ids first_is_text = tokenizer->encode("<|im_end|>");
  first_is_text.push_back(end);
  const Ids found = encoded({3});
  EXPECT_EQ(Ids(found.begin(), found.end() - static_cast<std::ptrdiff_t>(think)), first_is_text);
}

TEST(JsonTokenizer, TheConfigDecidesOnTheFrameWhereItSaysSomething) {
  const Json file = read(kFixtures / "mixtral/tokenizer.json");
  const auto encoded = [&](Json config) {
    config["bos_token"] = "<s>";
    config["eos_token"] = "</s>";
    return load_tokenizer(folder_with(file, config))->encode("In");
  };
  const Ids plain = load_tokenizer(kFixtures / "mixtral")->encode("In", kLiterally);
  Ids begin = plain, both;
  begin.insert(begin.begin(), 1);
  both = begin;
  both.push_back(2);
  EXPECT_EQ(encoded(Json::object()), begin) << "as the file's post-processor says";
  EXPECT_EQ(encoded({{"add_bos_token", false}}), plain);
  EXPECT_EQ(encoded({{"add_bos_token", true}, {"add_eos_token", true}}), both);
}

TEST(JsonTokenizer, ComesBeforeASentencepieceModel) {
  const auto folder = folder_with(read(kFixtures / "gpt2/tokenizer.json"));
  std::filesystem::copy(std::filesystem::path(COTERIE_FIXTURES) / "models/trained/top1/tokenizer.model", folder);
  EXPECT_EQ(load_tokenizer(folder)->encode("Ab"), load_tokenizer(kFixtures / "gpt2")->encode("Ab"));
}

TEST(JsonTokenizer, BytesThatAreNoTextAreReplaced) {
  const auto tokenizer = load_tokenizer(kFixtures / "gpt2");
  EXPECT_EQ(tokenizer->encode("a\xE2\x82z\xFF"), tokenizer->encode("a\uFFFDz\uFFFD"));
  EXPECT_EQ(decode(*tokenizer, tokenizer->encode(std::string_view("\0a\0", 3))), std::string("\0a\0", 3));
}

TEST(JsonTokenizer, MergesHaveTwoSpellings) {
  Json file = read(kFixtures / "gpt2/tokenizer.json");
  ASSERT_TRUE(file["model"]["merges"][0].is_array());
  for (Json& merge : file["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const std::string text = read(kFixtures / "texts.json")[0];
  EXPECT_EQ(load_tokenizer(folder_with(file))->encode(text), load_tokenizer(kFixtures / "gpt2")->encode(text));
}

TEST(JsonTokenizer, NormalizesAsHfDoes) {
  Json file = read(kFixtures / "gpt2/tokenizer.json");
  const auto normalized = [&](const char* form, const char* text) {
    file["normalizer"] = {{"type", form}};
    const auto tokenizer = load_tokenizer(folder_with(file));
    return decode(*tokenizer, tokenizer->encode(text));
  };
  EXPECT_EQ(normalized("NFC", "xe\u0301y \u1112\u1161\u11AB a\u0323\u0307\u0301 \u212B"), "xéy 한 ạ\u0307\u0301 Å");
  EXPECT_EQ(normalized("NFD", "xéy 한"), "xe\u0301y \u1112\u1161\u11AB");
  EXPECT_EQ(normalized("NFKC", "ﬁ ½ e\u0301"), "fi 1\u20442 é");
  EXPECT_EQ(normalized("NFKD", "ﬁ é"), "fi e\u0301");
  EXPECT_EQ(normalized("NFC", "\u1112\u1161\u11A7"), "하\u11A7") << "is no trailing consonant";
  EXPECT_EQ(normalized("NFC", "a\u0315\U00010EFD\u0301"), "a\u0315\U00010EFD\u0301") << "newer than HF's tables";
}

TEST(JsonTokenizer, PatternsMatchAsTheyDoInHf) {
  Json file = read(kFixtures / "gpt2/tokenizer.json");
  const auto pieces = [&](const char* regex, const char* behavior, bool invert, const char* text) {
    file["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", behavior}, {"invert", invert}},
          {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", false}}}}};
    const auto tokenizer = load_tokenizer(folder_with(file));
    return decode(*tokenizer, tokenizer->encode(text));  // a space before each piece
  };
  EXPECT_EQ(pieces("-", "Isolated", false, "a-b--c"), " a - b - - c");
  EXPECT_EQ(pieces("-", "Removed", false, "a-b--c"), " a b c");
  EXPECT_EQ(pieces("-", "MergedWithPrevious", false, "-a-b--c"), " - a- b- - c");
  EXPECT_EQ(pieces("-", "MergedWithNext", false, "a-b--c-"), " a -b - -c -");
  EXPECT_EQ(pieces("-", "Contiguous", false, "a-b--c"), " a - b -- c");
  EXPECT_EQ(pieces("[a-c]", "Removed", true, "ab-c"), " a b c");
  EXPECT_EQ(pieces(R"(\p{L}++|[^\p{L}\s]{,2}x|(?>b){1,})", "Isolated", false, "é1"), " é 1");
  EXPECT_EQ(pieces("[a-z&&[^aeiou]]+", "Isolated", false, "bcade"), " bc a d e");
  EXPECT_EQ(pieces(R"((?i:'T|k)|\x41\u0042)", "Isolated", false, "xKKkAB"), " x K K k AB");
  EXPECT_EQ(pieces(R"(\s+$)", "Isolated", false, "a\t\n b\t\t"), " a \t \n b \t\t");
  EXPECT_EQ(pieces(R"(\p{Han}+|\P{^Lu})", "Isolated", false, "a漢字B"), " a 漢字 B");
}

struct Wrong {
  const char* pointer;  ///< into a tokenizer.json
  Json value;
  const char* field;  ///< that the message names
};

TEST(JsonTokenizer, WhatIsWrongOrNotSupportedIsNamed) {
  const Json good = read(kFixtures / "mixtral/tokenizer.json");
  const auto split = [](const char* regex) {
    return Json{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
  };
  const std::vector<Wrong> all{
      {"/model/type", "Unigram", "model.type"},
      {"/model/vocab", Json::array(), "model.vocab"},
      {"/model/vocab/<s>", -1, "model.vocab[\"<s>\"]"},
      {"/model/vocab/<s>", 1 << 22, "model.vocab[\"<s>\"]"},
      {"/model/merges/3", "onlyone", "model.merges[3]"},
      {"/model/merges/3", "no suchtoken", "model.merges"},
      {"/model/dropout", 0.1, "model.dropout"},
      {"/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix"},
      {"/model/unk_token", "<nothing>", "model.unk_token"},
      {"/model/ignore_merges", "yes", "model.ignore_merges"},
      {"/normalizer", {{"type", "Lowercase"}}, "normalizer.type"},
      {"/normalizer/normalizers/1/pattern", {{"Regex", "x"}}, "normalizer.normalizers[1].pattern.String"},
      {"/pre_tokenizer", {{"type", "BertPreTokenizer"}}, "pre_tokenizer.type"},
      {"/pre_tokenizer", split("(?<=a)b"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("(a)\\1"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("^a"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("a{1,2}+"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("\\p{Greek}"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("(?i:ss)"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("(?i:\\p{Lu})"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("a*"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("(a"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("[a"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split("a\\"), "pre_tokenizer.pattern.Regex"},
      {"/pre_tokenizer", split(""), "pre_tokenizer.pattern.Regex"},
      {"/post_processor/type", "BertProcessing", "post_processor.type"},
      {"/post_processor/single", Json::array(), "post_processor.single"},
      {"/decoder", {{"type", "WordPiece"}}, "decoder.type"},
      {"/decoder/decoders/3/content", "x", "decoder.decoders[3].content"},
      {"/decoder/decoders/3/stop", 1, "decoder.decoders[3].stop"},
      {"/added_tokens/1/id", 77, "added_tokens[1].id"},
      {"/added_tokens/1/content", 5, "added_tokens[1].content"},
  };
  for (const Wrong& wrong : all) {
    Json file = good;
    file[Json::json_pointer(wrong.pointer)] = wrong.value;
    try {
      static_cast<void>(load_tokenizer(folder_with(file)));
      ADD_FAILURE() << wrong.pointer << " " << wrong.value;
    } catch (const InputError& e) {
      const std::string message = e.what();
      EXPECT_NE(message.find(std::string("tokenizer.json: ") + wrong.field + ": found "), std::string::npos) << message;
    }
  }
}

TEST(JsonTokenizer, FilesThatAreNoJsonAreNamed) {
  const auto message_of = [](const char* name, const std::string& text) -> std::string {
    const auto folder = folder_with(read(kFixtures / "mixtral/tokenizer.json"));
    std::ofstream(folder / name) << text;
    try {
      static_cast<void>(load_tokenizer(folder));
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  };
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_NE(message_of(name, "{\n\"a\": }").find(std::string(name) + ": not valid JSON: parse error at line 2"),
              std::string::npos);
    EXPECT_NE(message_of(name, std::string(100, '[')).find(std::string(name) + ": JSON nested deeper than 64"),
              std::string::npos);
    EXPECT_NE(message_of(name, "[]").find(std::string(name) + ": contents: found "), std::string::npos);
  }
  EXPECT_EQ(message_of("tokenizer_config.json", R"({"bos_token": 1, "bos_token": null})"), "") << "as Python reads it";
}

}  // namespace
}  // namespace coterie
