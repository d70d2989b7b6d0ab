#include "runtime/requests/request_reader.hpp"

#include "placement/input_error.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

namespace coterie {
namespace {

std::filesystem::path file_with(const std::string& text) {
  auto path = std::filesystem::path(testing::TempDir()) / ("request_reader_test." + std::to_string(getpid()));
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::string line(const std::string& id) {
  return R"({"custom_id": ")" + id + R"(", "method": "POST", "url": "/v1/completions", "body": {"prompt": [1]}})";
}

/// "a@1" for a request, "!code@2" for an error.
std::vector<std::string> read_all(const std::string& text) {
  RequestReader reader(file_with(text), {10, 64, nullptr, 0});
  std::vector<std::string> all;
  while (const auto next = reader.next()) {
    if (const auto* r = std::get_if<Request>(&*next)) {
      all.push_back(r->custom_id + "@" + std::to_string(r->line));
    } else {
      const auto& e = std::get<RequestError>(*next);
      all.push_back("!" + e.code + "@" + std::to_string(e.line));
    }
  }
  return all;
}

using Read = std::vector<std::string>;

TEST(RequestReader, APipeIsRefusedAndNotTakenForAnEmptyFile) {
  const auto path = file_with("");
  std::filesystem::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THROW(RequestReader(path, {10, 64, nullptr, 0}), InputError);  // without waiting for who writes into it
  std::filesystem::remove(path);
}

TEST(RequestReader, AWrongLineDoesNotStopTheOthers) {
  EXPECT_EQ(read_all(line("a") + "\nnonsense\n" + line("b") + "\n"), (Read{"a@1", "!invalid_json_line@2", "b@3"}));
}

TEST(RequestReader, BlankLinesAndLineEndsDoNotMatter) {
  EXPECT_EQ(read_all(""), Read{});
  EXPECT_EQ(read_all("\n \t\r\n\n"), Read{});
  EXPECT_EQ(read_all("\n" + line("a") + "\r\n\n" + line("b")), (Read{"a@2", "b@4"}));
  EXPECT_EQ(read_all("\xEF\xBB\xBF" + line("a")), Read{"a@1"});
}

TEST(RequestReader, ACustomIdBelongsToTheFirstLineThatHasIt) {
  EXPECT_EQ(read_all(line("a") + "\n" + line("b") + "\n" + line("a") + "\n" + line("a")),
            (Read{"a@1", "b@2", "!duplicate_custom_id@3", "!duplicate_custom_id@4"}));
  RequestReader reader(file_with(line("a") + "\n" + line("a")), {10, 64, nullptr, 0});
  static_cast<void>(reader.next());
  const auto second = reader.next();
  EXPECT_EQ(std::get<RequestError>(*second).message, "line 2: custom_id: found \"a\", which line 1 has");
  EXPECT_EQ(std::get<RequestError>(*second).custom_id, "a");
}

TEST(RequestReader, ALineWithoutEndIsSkippedNotStored) {
  const std::string endless(RequestReader::kLongestLine + 1, 'x');
  EXPECT_EQ(read_all(line("a") + "\n" + endless + endless + "\n" + line("b")),
            (Read{"a@1", "!line_too_long@2", "b@3"}));
  EXPECT_EQ(read_all(endless), Read{"!line_too_long@1"});
}

TEST(RequestReader, AFileThatCanNotBeReadIsNamed) {
  const auto complaint = [](const char* path) -> std::string {
    try {
      RequestReader reader(path, {});
    } catch (const InputError& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_EQ(complaint("/nowhere/requests.jsonl"),
            "/nowhere/requests.jsonl: can't be opened: No such file or directory");
  EXPECT_EQ(complaint("/"), "/: found a folder, expected a requests file");
}

}  // namespace
}  // namespace coterie
