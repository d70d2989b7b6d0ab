#include "runtime/requests/results_file.hpp"

#include "placement/input_error.hpp"
#include "runtime/requests/result_line.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>

namespace coterie {
namespace {

class ResultsFileTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove(path_); }
  void TearDown() override { std::filesystem::remove(path_); }

  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  [[nodiscard]] std::string contents() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  /// What the user is told when this is opened or written to.
  [[nodiscard]] std::string complaint(const std::filesystem::path& path) const {
    try {
      ResultsFile file(path);
      file.append("{}");
    } catch (const InputError& e) {
      return e.what();
    }
    return "nothing";
  }

  const std::filesystem::path path_ =
      std::filesystem::path(testing::TempDir()) / ("results_file_test." + std::to_string(getpid()) + ".jsonl");
};

Request request(const std::string& id, std::int64_t line = 1) {
  Request r;
  r.custom_id = id;
  r.line = line;
  r.prompt = {1};
  return r;
}

std::string answer(const std::string& id) {
  Completion c;
  c.request = request(id);
  c.tokens = {1, 2, 3};
  return completion_line(c, nullptr, "m");
}

TEST_F(ResultsFileTest, RemembersWhatItAnswers) {
  {
    ResultsFile file(path_);
    EXPECT_FALSE(file.answered(request("a")));
    file.append(answer("a"));
    file.append(error_line({"", 4, "c", "m"}));
    file.append(error_line({"d", 5, "c", "m"}));
    file.sync();
  }
  const ResultsFile again(path_);
  EXPECT_EQ(again.completions_found(), 1U);
  EXPECT_EQ(again.errors_found(), 2U);
  EXPECT_TRUE(again.answered(request("a", 1)));
  EXPECT_TRUE(again.answered(request("a", 9))) << "a completion goes by the custom_id alone";
  EXPECT_FALSE(again.answered(request("b")));
  EXPECT_TRUE(again.answered(RequestError{"", 4, "", ""}));
  EXPECT_FALSE(again.answered(RequestError{"", 6, "", ""}));
  EXPECT_TRUE(again.answered(RequestError{"d", 5, "", ""}));
  EXPECT_TRUE(again.answered(request("d", 5))) << "an error of the run, not of the line";
  EXPECT_FALSE(again.answered(request("e", 4))) << "the line was put right";
}

TEST_F(ResultsFileTest, TheRecordOfADuplicateIsNotTheAnswerToTheFirst) {
  write(error_line({"a", 2, "duplicate_custom_id", "m"}) + "\n");
  const ResultsFile file(path_);
  EXPECT_FALSE(file.answered(request("a", 1)));
  EXPECT_TRUE(file.answered(RequestError{"a", 2, "", ""}));
}

TEST_F(ResultsFileTest, AnAnswerIsNotTheRecordOfADuplicate) {
  write(answer("a") + "\n");
  EXPECT_FALSE(ResultsFile(path_).answered(RequestError{"a", 2, "", ""}));
}

TEST_F(ResultsFileTest, TornAtAnyByteItGoesOnWithWhatIsWhole) {
  const std::vector<std::string> lines{answer("a"), error_line({"", 2, "c", "m"}), answer("c")};
  std::string whole;
  for (const std::string& line : lines) whole += line + "\n";
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    write(whole.substr(0, size));
    std::size_t expected = 0, left = size;
    for (const std::string& line : lines) {
      if (left <= line.size()) break;
      left -= line.size() + 1;
      ++expected;
    }
    {
      ResultsFile file(path_);
      ASSERT_EQ(file.completions_found() + file.errors_found(), expected) << size;
      for (std::size_t i = expected; i < lines.size(); ++i) file.append(lines[i]);
    }
    ASSERT_EQ(contents(), whole) << "torn at byte " << size;
  }
}

TEST_F(ResultsFileTest, AFileOfSomethingElseIsLeftAlone) {
  const std::string result = answer("a") + "\n";
  for (const std::string& text :
       {std::string("my notes"), std::string("my notes\n"), std::string("{}\n"), std::string("\n"), result + "note\n",
        result + "{\"custom_id\":\"b\"}\n" + answer("c"),
        result + R"({"custom_id":5,"response":{},"error":null})" + "\n",
        std::string(R"({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}})")}) {
    write(text);
    const std::string told = complaint(path_);
    EXPECT_EQ(told.find(path_.string() + ": line "), 0U) << told;
    EXPECT_EQ(contents(), text);
  }
}

TEST_F(ResultsFileTest, WhatCanNotBeWrittenIsSaidAtOnce) {
  EXPECT_EQ(complaint("/nowhere/out.jsonl"), "/nowhere/out.jsonl: can't be written: No such file or directory");
  EXPECT_EQ(complaint("/"), "/: can't be written: Is a directory");
  if (!std::filesystem::exists("/sys/kernel")) return;
  const std::string refused = complaint("/sys/out.jsonl");  // nobody may make a file there
  EXPECT_NE(refused.find("can't be written"), std::string::npos) << refused;
  EXPECT_EQ(refused.find("No such file"), std::string::npos) << refused;
}

TEST_F(ResultsFileTest, TwoJobsDoNotShareAFile) {
  const ResultsFile first(path_);
  EXPECT_EQ(complaint(path_), path_.string() + ": another job is writing this file");
}

TEST_F(ResultsFileTest, AFullDiskKeepsWhatWasWritten) {
  EXPECT_NE(complaint("/dev/full").find("No space left on device"), std::string::npos);

  // A limit on the size of files tears a write as a full disk does.
  ResultsFile file(path_);
  file.append(answer("a"));
  const std::string before = contents();
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{before.size() + 10, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  EXPECT_THROW(file.append(answer("b")), InputError);
  EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(contents(), before);
  file.append(answer("b"));
  EXPECT_EQ(contents(), before + answer("b") + "\n");
}

TEST_F(ResultsFileTest, APipeIsWrittenOnly) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  ResultsFile file(path_);
  std::ifstream reader(path_);
  file.append("line");
  file.sync();
  std::string line;
  std::getline(reader, line);
  EXPECT_EQ(line, "line");
}

}  // namespace
}  // namespace coterie
