// The program as a user meets it: `coterie generate`, its files, its messages and exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

namespace coterie {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

const std::filesystem::path kModel = std::filesystem::path(COTERIE_FIXTURES) / "models" / "trained" / "top1";

struct Ended {
  int code = 0;
  std::string text;  ///< stdout and stderr
};

class GenerateTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("coterie_generate_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  std::string read(const std::string& name) const {
    std::ostringstream out;
    out << std::ifstream(folder_ / name).rdbuf();
    return out.str();
  }
  std::vector<json> results() const {
    std::vector<json> lines;
    std::istringstream in(read("results.jsonl"));
    for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
    return lines;
  }

  static std::string line(const std::string& id, const json& prompt, json body = json::object()) {
    body["prompt"] = prompt;
    if (!body.contains("max_tokens")) body["max_tokens"] = 8;
    if (!body.contains("temperature")) body["temperature"] = 0;
    return json{{"custom_id", id}, {"method", "POST"}, {"url", "/v1/completions"}, {"body", body}}.dump() + "\n";
  }

  /// Runs `coterie generate` with these arguments, by itself: one rank; or started by `launcher`.
  Ended run(const std::string& arguments, const std::string& launcher = "") const {
    const std::string command =
        launcher + COTERIE_PROGRAM + " generate " + arguments + " > " + path("log") + " 2>&1 < /dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read("log")};
  }
  Ended generate(const std::string& more = "") const {
    return run("--model " + kModel.string() + " --input " + path("requests.jsonl") + " --output " +
               path("results.jsonl") + " " + more);
  }

  std::filesystem::path folder_;
};

TEST_F(GenerateTest, AnswersTextAndTokenIds) {
  write("requests.jsonl", line("text", "In the beginning") + line("ids", {1, 17, 99}, {{"return_token_ids", true}}));
  const Ended ended = generate("--metrics " + path("metrics.json"));
  ASSERT_EQ(ended.code, 0) << ended.text;
  ASSERT_EQ(results().size(), 2U);
  for (const json& result : results()) {
    const json& body = result["response"]["body"];
    EXPECT_EQ(result["response"]["status_code"], 200);
    EXPECT_EQ(result["error"], nullptr);
    EXPECT_EQ(body["usage"]["completion_tokens"], 8);
    EXPECT_FALSE(body["choices"][0]["text"].get<std::string>().empty());
  }
  const json metrics = json::parse(read("metrics.json"));
  EXPECT_EQ(metrics["requests"]["answered"], 2);
  EXPECT_EQ(metrics["tokens"]["generated"], 16);
  EXPECT_GT(metrics["ranks"][0]["peak_memory_bytes"], 0);
}

TEST_F(GenerateTest, AnswersConversations) {
  const std::filesystem::path model = folder_ / "model";
  std::filesystem::create_directories(model);
  for (const auto& file : std::filesystem::directory_iterator(kModel)) {
    std::filesystem::create_symlink(file.path(), model / file.path().filename());
  }
  const auto chat = [](const std::string& id, const json& messages, json body) {
    body["messages"] = messages;
    body["temperature"] = 0;
    return json{{"custom_id", id}, {"method", "POST"}, {"url", "/v1/chat/completions"}, {"body", body}}.dump() + "\n";
  };
  const auto says = [](const char* role, const char* content) { return json{{"role", role}, {"content", content}}; };
  const json beginning = json::array({says("user", "In the beginning")});
  const std::string requests = chat("short", beginning, {{"max_tokens", 4}, {"logprobs", true}, {"top_logprobs", 1}}) +
                               chat("wrong", json::array({says("tool", "x")}), {{"max_tokens", 4}}) +
                               chat("token", json::array({says("user", "In</s>")}), {{"max_tokens", 1}}) +
                               line("plain", "In the beginning", {{"max_tokens", 4}});
  write("requests.jsonl", requests);
  write("model/chat_template.jinja",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}\n{{ raise_exception('no tools') }}{% endif %}"
        "{{ m.content }}{% endfor %}");
  const std::string arguments =
      "--model " + model.string() + " --input " + path("requests.jsonl") + " --output " + path("results.jsonl");
  const Ended ended = run(arguments);
  EXPECT_EQ(ended.code, 1) << ended.text;
  std::map<std::string, json> of;
  for (const json& result : results()) of[result["custom_id"]] = result;
  ASSERT_EQ(of.size(), 4U);
  const json body = of["short"]["response"]["body"], plain = of["plain"]["response"]["body"];
  EXPECT_EQ(body["choices"][0]["message"]["content"], plain["choices"][0]["text"]) << "the same prompt";
  EXPECT_EQ(body["choices"][0]["logprobs"]["content"].size(), 4U);
  EXPECT_EQ(body["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"]);
  EXPECT_GT(of["token"]["response"]["body"]["usage"]["prompt_tokens"], 4) << "</s> of the user is text";
  EXPECT_THAT(of["wrong"]["error"]["message"].get<std::string>(), HasSubstr("chat_template.jinja, line 2: no tools"));

  const std::string before = read("results.jsonl");
  EXPECT_EQ(run(arguments).code, 1);
  EXPECT_EQ(read("results.jsonl"), before) << "nothing was left to do";
}

TEST_F(GenerateTest, WrongRequestsGetErrorRecordsAndTheOthersGoOn) {
  write("requests.jsonl", line("good", "In the beginning") + "not json\n" + line("good", "again") +
                              line("far", {1, 2048}) + line("long", "x", {{"max_tokens", 5000}}) + "\n" +
                              line("beams", "x", {{"best_of", 4}}) + line("also good", {1, 2}));
  const Ended ended = generate();
  EXPECT_EQ(ended.code, 1) << ended.text;
  std::map<std::int64_t, std::string> errors;
  int answers = 0;
  for (const json& result : results()) {
    if (result["error"].is_null()) {
      ++answers;
    } else {
      errors[result["error"]["line"]] = result["error"]["message"];
    }
  }
  EXPECT_EQ(answers, 2);
  ASSERT_EQ(errors.size(), 5U);
  EXPECT_THAT(errors[3], HasSubstr("custom_id"));
  EXPECT_THAT(errors[4], HasSubstr("2048"));
  EXPECT_THAT(errors[5], HasSubstr("max_tokens"));
  EXPECT_THAT(errors[7], HasSubstr("best_of"));

  const std::string before = read("results.jsonl");
  EXPECT_EQ(generate().code, 1);  // nothing is left to do, and nothing is written twice
  EXPECT_EQ(read("results.jsonl"), before);
}

TEST_F(GenerateTest, GoesOnWhereATornFileEnds) {
  std::string requests;
  for (int i = 0; i < 6; ++i) requests += line("r" + std::to_string(i), "The king said " + std::to_string(i));
  write("requests.jsonl", requests);
  ASSERT_EQ(generate().code, 0);
  const std::string whole = read("results.jsonl");
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, whole.size() / 3, whole.size() / 2, whole.size() - 1}) {
    write("results.jsonl", whole.substr(0, size));
    const Ended ended = generate();
    ASSERT_EQ(ended.code, 0) << ended.text;
    std::vector<std::string> ids;
    std::map<std::string, std::string> texts;
    for (const json& result : results()) {
      ids.push_back(result["custom_id"]);
      texts[result["custom_id"]] = result.dump();
    }
    EXPECT_EQ(ids.size(), 6U) << "cut at " << size;
    EXPECT_EQ(texts.size(), 6U) << "cut at " << size;
    std::istringstream in(whole);
    for (std::string l; std::getline(in, l);) EXPECT_EQ(texts[json::parse(l)["custom_id"]], json::parse(l).dump());
  }
}

TEST_F(GenerateTest, AnswersOfAnotherModelAreSaidToBeKept) {
  const std::filesystem::path renamed = folder_ / "another";
  std::filesystem::create_directory_symlink(kModel, renamed);
  write("requests.jsonl", line("a", "The king"));
  EXPECT_THAT(generate().text, Not(HasSubstr("keeps answers")));
  EXPECT_THAT(generate().text, Not(HasSubstr("keeps answers")));
  const Ended other =
      run("--model " + renamed.string() + " --input " + path("requests.jsonl") + " --output " + path("results.jsonl"));
  EXPECT_EQ(other.code, 0);
  EXPECT_THAT(other.text, HasSubstr("results.jsonl: keeps answers of top1; new ones are of another"));
}

TEST_F(GenerateTest, AJobThatGoesOnKeepsWhatWasRecordedBefore) {
  const auto recorded = [&](const std::string& results) {
    return run("--model " + kModel.string() + " --input " + path("requests.jsonl") + " --output " + path(results) +
               " --trace-out " + path("trace") + " --logits-out " + path("logits"));
  };
  std::string requests;
  for (int i = 0; i < 4; ++i) requests += line("r" + std::to_string(i), "The king said " + std::to_string(i));
  write("requests.jsonl", requests);
  ASSERT_EQ(recorded("undisturbed.jsonl").code, 0);
  const std::string trace = read("trace"), logits = read("logits");

  write("requests.jsonl", requests.substr(0, requests.rfind('\n', requests.size() - 2) + 1));  // all but the last
  ASSERT_EQ(recorded("results.jsonl").code, 0);
  const std::string first = read("trace");
  write("requests.jsonl", line("new", "The king said no") + requests);
  const Ended moved = recorded("results.jsonl");
  EXPECT_EQ(moved.code, 2);
  EXPECT_THAT(moved.text, HasSubstr(path("trace") + ": requests: found"));
  EXPECT_EQ(read("trace"), first);
  write("requests.jsonl", requests);
  const Ended went_on = recorded("results.jsonl");
  ASSERT_EQ(went_on.code, 0);
  EXPECT_THAT(went_on.text, HasSubstr("goes on from the record of 3 requests; 3 were answered before"));
  EXPECT_EQ(read("trace"), trace);
  EXPECT_EQ(read("logits"), logits);
  ASSERT_EQ(recorded("results.jsonl").code, 0);  // nothing is left to do
  EXPECT_EQ(read("trace"), trace);
  EXPECT_EQ(read("logits"), logits);

  std::filesystem::rename(path("trace"), path("logits"));
  const Ended other = recorded("results.jsonl");
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.text, HasSubstr(path("logits") + ": "));
  EXPECT_EQ(read("logits"), trace);  // as it was
}

TEST_F(GenerateTest, TheSameTextWhateverElseIsInTheBatch) {
  const json sampled{{"temperature", 0.9}, {"top_p", 0.95}, {"top_k", 50}, {"max_tokens", 24}};
  write("requests.jsonl", line("one", "In those days", sampled));
  ASSERT_EQ(generate().code, 0);
  const json alone = results().at(0);
  std::string many;
  for (int i = 0; i < 20; ++i)
    many += line("other" + std::to_string(i), "SELECT * FROM t" + std::to_string(i), sampled);
  write("requests.jsonl", many + line("one", "In those days", sampled) + many.substr(0, 0));
  std::filesystem::remove(folder_ / "results.jsonl");
  ASSERT_EQ(generate("--max-batch-tokens 7").code, 0);
  for (const json& result : results()) {
    if (result["custom_id"] == "one") {
      EXPECT_EQ(result, alone);
    }
  }
}

TEST_F(GenerateTest, EndsAtStopStringsAndStopTokens) {
  write("requests.jsonl", line("free", "In the beginning", {{"max_tokens", 32}, {"return_token_ids", true}}));
  ASSERT_EQ(generate().code, 0);
  const json choice = results().at(0)["response"]["body"]["choices"][0];
  const std::string text = choice["text"];
  const std::string stop = text.substr(text.size() / 2, 3);
  const int token = choice["token_ids"][5];

  write("requests.jsonl", line("string", "In the beginning", {{"max_tokens", 32}, {"stop", stop}}) +
                              line("token", "In the beginning", {{"max_tokens", 32}, {"stop_token_ids", {token}}}));
  std::filesystem::remove(folder_ / "results.jsonl");
  ASSERT_EQ(generate().code, 0);
  for (const json& result : results()) {
    const json& stopped = result["response"]["body"]["choices"][0];
    EXPECT_EQ(stopped["finish_reason"], "stop");
    const std::string got = stopped["text"];
    EXPECT_EQ(text.substr(0, got.size()), got);
    if (result["custom_id"] == "string") {
      EXPECT_EQ(got, text.substr(0, text.find(stop)));
    }
    if (result["custom_id"] == "token") {
      EXPECT_EQ(stopped["stop_reason"], token);
    }
  }
}

TEST_F(GenerateTest, WrongInputEndsWithCode2AndNamesWhatIsWrong) {
  write("requests.jsonl", line("x", {1, 2}));
  write("notes.txt", "these are not results\n");
  const std::string files = " --input " + path("requests.jsonl") + " --output " + path("results.jsonl") + " ";
  const auto fails = [&](const std::string& arguments, const std::string& part) {
    SCOPED_TRACE(arguments);
    const Ended ended = run(arguments);
    EXPECT_EQ(ended.code, 2);
    EXPECT_THAT(ended.text, HasSubstr(part));
  };
  fails("", "--model");
  fails("--modle x", "--modle");
  fails("--model " + path("nowhere") + files, path("nowhere"));
  fails("--model " + folder_.string() + files, "config.json");
  const std::string model = "--model " + kModel.string();
  fails(model + " --input " + path("missing.jsonl") + " --output " + path("results.jsonl"), "missing.jsonl");
  fails(model + " --input " + path("requests.jsonl") + " --output " + path("no/results.jsonl"), "no/results.jsonl");
  fails(model + " --input " + path("requests.jsonl") + " --output " + path("notes.txt"), "notes.txt");
  fails(model + " --input " + path("requests.jsonl") + " --output /dev/full", "/dev/full");
  fails(model + files + "--plan " + path("requests.jsonl"), "requests.jsonl");
  fails(model + files + "--metrics " + path("no/m.json"), "no/m.json");
  fails(model + files + "--kv-memory 1KiB", "--kv-memory");
  fails(model + files + "--kv-memory 100000TiB", "--kv-memory");
  fails(model + files + "--dtype f8", "--dtype");
  std::filesystem::create_symlink("requests.jsonl", folder_ / "alias");
  fails(model + files + "--metrics " + path("alias"), "another file than --input");
  std::filesystem::remove(folder_ / "results.jsonl");
  std::filesystem::create_symlink("results.jsonl", folder_ / "alias of none");
  fails(model + files + "--metrics '" + path("alias of none") + "'", "another file than --output");
  fails(model + files + "--trace-out " + path("./results.jsonl"), "another file than --output");
  fails(model + files + "--machine " + path("./results.jsonl"), "another file than --machine");
  EXPECT_EQ(run(model + files + "--logits-out /dev/null --metrics /dev/null").code, 0);
  EXPECT_EQ(read("notes.txt"), "these are not results\n");
}

TEST_F(GenerateTest, APlanOfAnotherModelIsSaidToBeOne) {
  write("requests.jsonl", line("a", "The king"));
  std::vector<int> layers(8), experts(16);
  std::iota(layers.begin(), layers.end(), 0);
  std::iota(experts.begin(), experts.end(), 0);
  const auto with_plan_of = [&](const std::string& model) {
    const json shape{{"name", model}, {"layers", 8}, {"layer_ids", layers}, {"experts", 16}, {"top_k", 1}};
    write("plan.json", json{{"format", "coterie.plan/1"},
                            {"model", shape},
                            {"topology", {{"nodes", 1}, {"ranks_per_node", 1}}},
                            {"slots_per_rank", 16},
                            {"physical_to_logical", std::vector(8, experts)}}
                           .dump());
    const Ended ended = generate("--plan " + path("plan.json"));
    EXPECT_EQ(ended.code, 0) << ended.text;
    return ended.text;
  };
  EXPECT_THAT(with_plan_of("top1"), Not(HasSubstr("was made for")));
  EXPECT_THAT(with_plan_of("another"), HasSubstr("was made for another, and places top1"));
}

TEST_F(GenerateTest, PathsNeedNotBeUtf8) {
  const std::filesystem::path odd = folder_ / "a b \xff\xfe";
  std::filesystem::create_directory(odd);
  std::filesystem::create_directory_symlink(kModel, odd / "m\xff");
  write("requests.jsonl", line("a", "The king"));
  const std::string files = "--model '" + (odd / "m\xff").string() + "' --input " + path("requests.jsonl") +
                            " --output '" + (odd / "r").string() + "' --trace-out '" + (odd / "t").string() +
                            "' --metrics '" + (odd / "m").string() + "'";
  for (int times = 0; times < 2; ++times) {
    const Ended ended = run(files);
    EXPECT_EQ(ended.code, 0) << ended.text;
  }
  EXPECT_EQ(json::parse(std::ifstream(odd / "r"))["response"]["body"]["model"], "m\xef\xbf\xbd");
}

TEST_F(GenerateTest, AModelWhoseWeightsAreNoNumbersIsNamed) {
  const std::filesystem::path model = folder_ / "model";
  std::filesystem::copy(kModel, model);
  std::fstream file(model / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  std::uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), sizeof length);
  std::string header(length, ' ');
  file.read(header.data(), static_cast<std::streamsize>(length));
  const std::int64_t begin = json::parse(header)["model.norm.weight"]["data_offsets"][0];
  file.seekp(static_cast<std::streamoff>(sizeof length + length) + begin + 2 * 7);  // BF16
  file.write("\xc0\x7f", 2);
  file.close();
  write("requests.jsonl", line("x", {1, 2}));
  const Ended ended =
      run("--model " + model.string() + " --input " + path("requests.jsonl") + " --output " + path("results.jsonl"));
  EXPECT_EQ(ended.code, 2);
  EXPECT_THAT(ended.text, HasSubstr("model.safetensors: model.norm.weight: found NaN at [7]"));
}

TEST_F(GenerateTest, WithoutAGpuCudaIsRefusedAndAutoTakesTheCpu) {
  write("requests.jsonl", line("x", "In the beginning"));
  const std::string arguments = "--model " + kModel.string() + " --input " + path("requests.jsonl") + " --output " +
                                path("results.jsonl") + " --metrics " + path("metrics.json") + " --device ";
  const std::string hidden = "CUDA_VISIBLE_DEVICES= ";
  const Ended refused = run(arguments + "cuda", hidden + COTERIE_MPIEXEC " 2 ");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.text, HasSubstr("--device cuda: rank 0 found no GPU"));
  ASSERT_EQ(run(arguments + "auto", hidden).code, 0);
  EXPECT_EQ(results().size(), 1U);
  EXPECT_THAT(json::parse(read("metrics.json"))["job"]["device"].get<std::string>(), HasSubstr("CPU"));
}

TEST_F(GenerateTest, ARequestThatCanNeverFitGetsAnErrorRecord) {
  write("requests.jsonl", line("small", {1, 2}) + line("large", {1, 2}, {{"max_tokens", 200}}));
  const Ended ended = generate("--kv-memory 64KiB");
  EXPECT_EQ(ended.code, 1) << ended.text;
  ASSERT_EQ(results().size(), 2U);
  EXPECT_THAT(results()[0]["error"]["message"].get<std::string>(), HasSubstr("--kv-memory"));
  EXPECT_EQ(results()[1]["error"], nullptr);
}

TEST_F(GenerateTest, ABatchThatDoesNotFitNamesTheLargestThatDoes) {
  std::string requests;
  for (int i = 0; i < 24; ++i) {  // the first are longer than most
    requests += line(std::to_string(i), std::vector<int>(i < 5 ? 150 : 10, 7), {{"max_tokens", i < 5 ? 60 : 8}});
  }
  write("requests.jsonl", requests);
  const auto of_two = [&](int batch_size) {
    std::filesystem::remove(path("results.jsonl"));
    return run("--coherence world --kv-memory 4777777 --max-batch-size " + std::to_string(batch_size) + " --model " +
                   kModel.string() + " --input " + path("requests.jsonl") + " --output " + path("results.jsonl"),
               COTERIE_MPIEXEC " 2 ");
  };
  const Ended refused = of_two(12);
  EXPECT_EQ(refused.code, 2) << refused.text;
  const auto at = refused.text.find("--max-batch-size ");
  ASSERT_NE(at, std::string::npos) << refused.text;
  const int largest = std::stoi(refused.text.substr(at + std::string("--max-batch-size ").size()));
  EXPECT_EQ(of_two(largest + 1).code, 2);
  const Ended ended = of_two(largest);
  EXPECT_EQ(ended.code, 0) << ended.text;
  EXPECT_EQ(results().size(), 24U);
}

TEST_F(GenerateTest, SpillsAsAskedAndKeepsExpertsOnlyWhereOneFits) {
  const std::filesystem::path model = kModel.parent_path().parent_path() / "deepseek-v3";
  const json ids{{"return_token_ids", true}, {"max_tokens", 24}};
  write("requests.jsonl", line("a", {1, 2}, ids) + line("b", {5, 6, 7}, ids) + line("c", {7, 7, 7, 7}, ids));
  const auto answers = [&](const std::string& dispatch) {
    std::filesystem::remove(path("results.jsonl"));
    const Ended ended =
        run("--model " + model.string() + " --input " + path("requests.jsonl") + " --output " + path("results.jsonl") +
                " --metrics " + path("metrics.json") + " --dispatch " + dispatch,
            COTERIE_MPIEXEC " 3 ");
    EXPECT_EQ(ended.code, 0) << ended.text;
    std::map<std::string, json> tokens;
    for (const json& r : results()) tokens[r["custom_id"]] = r["response"]["body"]["choices"][0]["token_ids"];
    return tokens;
  };
  const auto expected = answers("plain");
  EXPECT_EQ(expected.size(), 3U);
  const auto metrics_of = [&](const std::string& options) {
    EXPECT_EQ(answers("llep --llep-min-rows 1 " + options), expected) << options;
    return json::parse(read("metrics.json"))["dispatch"];
  };
  const json without = metrics_of("--llep-threshold 1 --spill-cache 0");
  ASSERT_GT(without["experts_sent"], 0);
  EXPECT_GT(without["calls"]["spilled"], 0);
  const std::int64_t expert =
      without["weight_bytes_sent"].get<std::int64_t>() / without["experts_sent"].get<std::int64_t>();
  EXPECT_EQ(metrics_of("--llep-threshold 1 --spill-cache " + std::to_string(expert - 1))["cache_hits"], 0);
  EXPECT_GT(metrics_of("--llep-threshold 1 --spill-cache " + std::to_string(expert))["cache_hits"], 0);
  EXPECT_EQ(metrics_of("--llep-threshold 0 --llep-alpha 1000000")["calls"]["spilled"], 0);
}

TEST_F(GenerateTest, NoRequestsAreNoWork) {
  write("requests.jsonl", "");
  EXPECT_EQ(generate().code, 0);
  EXPECT_TRUE(results().empty());
}

}  // namespace
}  // namespace coterie
