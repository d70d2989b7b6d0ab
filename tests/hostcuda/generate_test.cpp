// The program as a user meets it, with its CUDA half compiled for the host: a "GPU" that ranks may share.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

namespace coterie {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class HostCudaGenerateTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::ofstream out(path("requests.jsonl"));
    for (const char* prompt : {"In the beginning", "SELECT * FROM", "Y dijo"}) {
      const json body{{"prompt", prompt}, {"max_tokens", 6}, {"temperature", 0}};
      out << json{{"custom_id", prompt}, {"method", "POST"}, {"url", "/v1/completions"}, {"body", body}} << '\n';
    }
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string read(const std::string& name) const {
    std::ostringstream out;
    out << std::ifstream(folder_ / name).rdbuf();
    return out.str();
  }

  /// The exit code of `coterie generate` on two ranks.
  int generate(const std::string& program, const std::string& options) const {
    std::filesystem::remove(folder_ / "results.jsonl");
    const std::string model = std::string(COTERIE_FIXTURES) + "/models/trained/top1";
    const int status = std::system((COTERIE_MPIEXEC " 2 " + program + " generate --model " + model + " --input " +
                                    path("requests.jsonl") + " --output " + path("results.jsonl") + " --metrics " +
                                    path("metrics.json") + " " + options + " > " + path("log") + " 2>&1 < /dev/null")
                                       .c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  /// By custom_id.
  std::map<std::string, std::string> texts() const {
    std::map<std::string, std::string> texts;
    std::istringstream in(read("results.jsonl"));
    for (std::string line; std::getline(in, line);) {
      const json result = json::parse(line);
      texts[result["custom_id"]] = result["response"]["body"]["choices"][0]["text"];
    }
    return texts;
  }

  const std::filesystem::path folder_ = std::filesystem::path(testing::TempDir()) / "coterie_hostcuda_generate";
};

TEST_F(HostCudaGenerateTest, GivesTheCpusTextsOnAGpuThatRanksShare) {
  ASSERT_EQ(generate(COTERIE_PROGRAM, ""), 0) << read("log");
  const auto expected = texts();
  ASSERT_EQ(expected.size(), 3U);
  ASSERT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, "--device cuda --share-gpu --coherence world"), 0) << read("log");
  EXPECT_EQ(texts(), expected);
  EXPECT_THAT(json::parse(read("metrics.json"))["job"]["device"].get<std::string>(), HasSubstr("CUDA 0"));
  EXPECT_EQ(json::parse(read("metrics.json"))["job"]["transport"], "mpi");
  ASSERT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, "--device cuda --share-gpu --transport nccl"), 0) << read("log");
  EXPECT_EQ(texts(), expected);
  EXPECT_EQ(json::parse(read("metrics.json"))["job"]["transport"], "nccl");
  EXPECT_THAT(read("log"), HasSubstr("coterie: small messages go by "));
}

TEST_F(HostCudaGenerateTest, NcclIsForGpus) {
  EXPECT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, "--transport nccl"), 2);
  EXPECT_THAT(read("log"), HasSubstr("--transport nccl: rank 0: it computes on the CPU"));
}

TEST_F(HostCudaGenerateTest, AnswersInBf16) {
  ASSERT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, "--device cuda --share-gpu --dtype bf16 --expert-kernels cublas"), 0)
      << read("log");
  EXPECT_EQ(texts().size(), 3U);
}

TEST_F(HostCudaGenerateTest, KeysAndValuesGetWhatIsLeftOfTheGpu) {
  const std::string job = "--device cuda --share-gpu --kv-memory ";
  EXPECT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, job + "8GiB"), 2);  // each has less than half of 16
  EXPECT_THAT(read("log"), HasSubstr("--kv-memory"));
  EXPECT_THAT(read("log"), HasSubstr("a rank has 83"));
  EXPECT_THAT(read("log"), HasSubstr("bytes of its GPU, of which its weights take "));
  EXPECT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, job + "4GiB"), 0) << read("log");
  EXPECT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, "--device cuda --share-gpu --max-batch-tokens 3000000"), 2);
  EXPECT_THAT(read("log"), HasSubstr("the model doesn't fit its GPUs"));
}

TEST_F(HostCudaGenerateTest, GpusAreSharedOnlyWhereTheUserSaysSo) {
  EXPECT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, "--device cuda"), 2);
  EXPECT_THAT(read("log"), HasSubstr("rank 1 found no GPU that no other rank has"));
  ASSERT_EQ(generate(COTERIE_HOSTCUDA_PROGRAM, "--device auto"), 0) << read("log");
  EXPECT_THAT(json::parse(read("metrics.json"))["job"]["device"].get<std::string>(), HasSubstr("CPU"));
}

}  // namespace
}  // namespace coterie
