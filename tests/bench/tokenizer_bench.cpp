// Encodes texts with a model folder's tokenizer and says how fast; tests/bench/hf_compare/tokenizer_compare.py has it
// write the ids too, and compares them with HF's.
//
// usage: tokenizer_bench FOLDER TEXTS [IDS]     TEXTS: lines of {"text": ...}; IDS: where lines with ids go
#include "runtime/text/text_decoder.hpp"
#include "runtime/text/tokenizer.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

namespace {

using Json = nlohmann::json;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::string> read_texts(const char* path) {
  std::ifstream file(path);
  std::vector<std::string> texts;
  for (std::string line; std::getline(file, line);) texts.push_back(Json::parse(line).at("text"));
  return texts;
}

void write_ids(const coterie::Tokenizer& tokenizer, const std::vector<std::string>& texts, const char* path) {
  std::ofstream file(path);
  for (const std::string& text : texts) {
    const auto literal = tokenizer.encode(text);
    const auto parsed = tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = true});
    // Any ids must decode as HF decodes them, also those that no text gives.
    std::vector<std::int32_t> scattered;
    for (std::size_t i = 0; i < literal.size(); ++i) scattered.push_back(literal[i * 7919 % literal.size()]);
    file << Json{{"literal", literal},
                 {"parsed", parsed},
                 {"decoded", coterie::decode(tokenizer, parsed)},
                 {"scattered", coterie::decode(tokenizer, scattered)}}
                .dump()
         << '\n';
  }
}

int run(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: tokenizer_bench FOLDER TEXTS [IDS]\n");
    return 2;
  }
  auto start = std::chrono::steady_clock::now();
  const auto tokenizer = coterie::load_tokenizer(argv[1]);
  if (!tokenizer) {
    std::fprintf(stderr, "tokenizer_bench: %s has no tokenizer\n", argv[1]);
    return 2;
  }
  const double load = seconds_since(start);
  const std::vector<std::string> texts = read_texts(argv[2]);
  std::size_t bytes = 0, tokens = 0;
  for (const std::string& text : texts) bytes += text.size();
  std::vector<double> times;
  for (int round = 0; round < 5; ++round) {
    tokens = 0;
    start = std::chrono::steady_clock::now();
    for (const std::string& text : texts) tokens += tokenizer->encode(text).size();
    times.push_back(seconds_since(start));
  }
  const double first = times.front();
  std::sort(times.begin(), times.end());
  const double mb = static_cast<double>(bytes) / 1e6;
  std::printf("%zu texts, %.2f MB, %zu tokens; loaded in %.3f s; %.2f MB/s (first round %.2f, median of 5 %.2f)\n",
              texts.size(), mb, tokens, load, mb / times.front(), mb / first, mb / times[times.size() / 2]);
  if (argc == 4) write_ids(*tokenizer, texts, argv[3]);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "tokenizer_bench: %s\n", e.what());
    return 2;
  }
}
