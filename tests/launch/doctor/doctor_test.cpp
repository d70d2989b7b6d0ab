// The doctor as a user starts it: here, and on machines with GPUs whose libraries are stood in for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace coterie {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct Printed {
  int exit_code = -1;
  std::string text;
};

/// What it prints on standard output.
Printed run(const std::string& before, const std::string& arguments) {
  Printed printed;
  FILE* pipe = ::popen((before + " " COTERIE_PROGRAM " doctor " + arguments + " 2> /dev/null").c_str(), "r");
  if (pipe == nullptr) return printed;
  std::array<char, 4096> buffer;
  while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    printed.text.append(buffer.data(), count);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) printed.exit_code = WEXITSTATUS(status);
  return printed;
}

std::string with_gpus(int gpus, const std::string& links, const std::string& more = "") {
  return "LD_LIBRARY_PATH=" COTERIE_FAKE_LIBRARIES ":$LD_LIBRARY_PATH COTERIE_FAKE_GPUS=" + std::to_string(gpus) +
         " COTERIE_FAKE_LINKS=" + links + " " + more;
}

json parsed(const Printed& printed) {
  json found = json::parse(printed.text, nullptr, false);
  EXPECT_FALSE(found.is_discarded()) << printed.text;
  return found;
}

TEST(Doctor, WorksWithoutMpiRunAndFindsThisHost) {
  const Printed printed = run("", "--device cpu --json");
  EXPECT_EQ(printed.exit_code, 0) << printed.text;
  const json facts = parsed(printed)["ranks"];
  ASSERT_EQ(facts.size(), 1U);
  EXPECT_EQ(facts[0]["mpi"]["ranks"], 1);
  EXPECT_GT(facts[0]["host"]["cores"], 0);
  EXPECT_GT(facts[0]["host"]["memory"], 0);
  EXPECT_THAT(run("", "--device cpu").text, HasSubstr("no problems that would stop a job"));
}

TEST(Doctor, SaysWhichRanksAreOnWhichHost) {
  const Printed printed = run(COTERIE_MPIEXEC " 3", "--device cpu --json");
  const json facts = parsed(printed)["ranks"];
  ASSERT_EQ(facts.size(), 3U);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(facts[rank]["mpi"]["rank"], rank);
    EXPECT_EQ(facts[rank]["mpi"]["tasks"], 3);
    EXPECT_EQ(facts[rank]["mpi"]["local_rank"], rank);
    EXPECT_EQ(facts[rank]["mpi"]["local_ranks"], 3);
  }
}

TEST(Doctor, AJobThatIsToUseAGpuNeedsOne) {
  const Printed printed = run(with_gpus(0, "bus"), "--device cuda");
  EXPECT_EQ(printed.exit_code, 1) << printed.text;
  EXPECT_THAT(printed.text, HasSubstr("problem, GPU"));
}

TEST(Doctor, ADriverThatRefusesIsQuoted) {
  const json facts = parsed(run(with_gpus(2, "bus", "COTERIE_FAKE_ERROR=802"), "--json"))["ranks"][0]["gpu"];
  EXPECT_EQ(facts["trouble"], "cuInit: the fake driver refuses");
  EXPECT_TRUE(facts["gpus"].empty());
}

TEST(Doctor, ShowsGpusAndWhatIsBetweenThem) {
  const json facts = parsed(run(with_gpus(8, "switch"), "--json"))["ranks"][0];
  const json& gpu = facts["gpu"];
  ASSERT_EQ(gpu["gpus"].size(), 8U);
  EXPECT_EQ(gpu["driver"], "580.65.06");
  EXPECT_EQ(gpu["cuda"], 13000);
  EXPECT_EQ(gpu["gpus"][7]["name"], "Fake H100");
  EXPECT_EQ(gpu["gpus"][7]["capability"], 90);
  EXPECT_EQ(gpu["gpus"][7]["memory"], std::uint64_t{80} << 30);
  EXPECT_EQ(gpu["links"][0][7], "NV18");
  EXPECT_EQ(facts["nccl"]["version"], 22809);

  const json pairs = parsed(run(with_gpus(4, "pairs"), "--json"))["ranks"][0]["gpu"]["links"];
  EXPECT_EQ(pairs[0][1], "NV4");
  EXPECT_EQ(pairs[0][2], "SYS");
  const std::string page = run(with_gpus(4, "bus"), "").text;
  EXPECT_THAT(page, HasSubstr("PIX!"));
  EXPECT_THAT(page, HasSubstr("SYS!"));
  EXPECT_THAT(page, HasSubstr("0000:1C:00.0"));
}

TEST(Doctor, EveryRankHasAGpuOfItsOwnOrSharesOne) {
  const auto problems = [](const json& found) {
    std::string text;
    for (const json& finding : found["findings"]) {
      if (finding["weight"] == "problem" && finding["about"] == "GPU")
        text += finding["text"].get<std::string>() + "\n";
    }
    return text;
  };
  const std::string ranks = with_gpus(2, "switch") + COTERIE_MPIEXEC " ";
  const json more = parsed(run(ranks + "3", "--json --device cuda"));
  if (more["ranks"][0]["build"]["cuda"].get<std::string>().empty()) GTEST_SKIP() << "built without CUDA";
  EXPECT_THAT(problems(more), HasSubstr("rank 2 sees no GPU that no other has, of 2"));
  EXPECT_EQ(problems(parsed(run(ranks + "3", "--json --device cuda --share-gpu"))), "");
  EXPECT_EQ(problems(parsed(run(ranks + "2", "--json --device cuda"))), "");
}

TEST(Doctor, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(run("", "--device tpu").exit_code, 2);
  EXPECT_EQ(run("", "--device cpu --share-gpu").exit_code, 2);
  EXPECT_EQ(run("", "--gpu").exit_code, 2);
  EXPECT_EQ(run("", "--help").exit_code, 0);
}

}  // namespace
}  // namespace coterie
