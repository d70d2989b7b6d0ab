#include "placement/files/npy_file.hpp"
#include "placement/files/safetensors.hpp"
#include "placement/formats/formats.hpp"
#include "placement/input_error.hpp"
#include "tests/placement/mutate.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace coterie {
namespace {

using Experts = std::vector<std::uint16_t>;
using Paths = std::vector<std::filesystem::path>;

const TraceFormat& format(std::string_view name) {
  const auto all = trace_formats();
  return *std::find_if(all.begin(), all.end(), [&](const TraceFormat& f) { return f.name == name; });
}

std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(COTERIE_FIXTURES) / "sglang" / name;
}

Trace choices(std::string_view name, const Paths& paths, const FormatOptions& options = {}) {
  return std::get<Trace>(format(name).read(paths, options));
}
LoadTrace counts(std::string_view name, const Paths& paths, const FormatOptions& options = {}) {
  return std::get<LoadTrace>(format(name).read(paths, options));
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

void expect_in(const std::string& part, const std::string& text) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
}

/// Only the format itself knows the file as its own.
void expect_recognised(std::string_view name, const std::filesystem::path& path) {
  for (const TraceFormat& f : trace_formats()) {
    if (f.recognises == nullptr) continue;
    EXPECT_EQ(f.recognises(path), f.name == name) << path << " seen as " << f.name;
  }
  for (const PlanFormat& f : plan_formats()) {
    if (f.recognises == nullptr) continue;
    EXPECT_FALSE(f.recognises(path)) << path << " seen as " << f.name;
  }
}

template <class T>
void add(SafetensorsWriter& writer, const std::string& name, ElementType type, const Shape& shape,
         const std::vector<T>& values) {
  writer.add(name, type, shape, std::as_bytes(std::span(values)));
}

/// A .npy file as NumPy writes it.
template <class T>
void save_npy(const std::filesystem::path& path, const std::string& type, const std::string& shape,
              const std::vector<T>& values) {
  std::string header = "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize(117, ' ');
  header += '\n';
  std::string bytes = "\x93NUMPY";
  bytes += std::string{1, 0, static_cast<char>(header.size()), 0} + header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  write_bytes(path, bytes);
}

// The fixtures' content is told in tests/fixtures/sglang/make_records.py.

TEST(SglangRecord, PerTokenSlotsBecomeExpertsOfSequences) {
  expect_recognised("sglang-record", fixture("per_token.pt"));
  const Trace trace = choices("sglang-record", {fixture("per_token.pt")});
  const std::vector<int> expert_of_slot{0, 1, 2, 3, 4, 5, 0, 3};
  Experts expected;
  for (int t = 0; t < 5; ++t)
    for (int l = 1; l < 3; ++l)
      for (int c = 0; c < 2; ++c)
        expected.push_back(static_cast<std::uint16_t>(expert_of_slot[(t + 2 * l + 5 * c) % 8]));
  for (int t = 0; t < 2; ++t)
    for (int l = 1; l < 3; ++l)
      for (int c = 0; c < 2; ++c)
        expected.push_back(static_cast<std::uint16_t>(expert_of_slot[(3 * t + l + 5 * c + 1) % 8]));
  EXPECT_EQ(trace.experts, expected);
  EXPECT_EQ(trace.num_experts, 6);
  EXPECT_EQ(trace.top_k, 2) << "the six columns that SGLang leaves unused are no choices";
  EXPECT_EQ(trace.layer_ids, (std::vector<int>{1, 2})) << "layer 0 is dense";
  EXPECT_EQ(trace.sequence, (std::vector<std::int32_t>{0, 0, 0, 1, 1, 2, 3}));
  EXPECT_EQ(trace.position, (std::vector<std::int32_t>{0, 1, 2, 0, 1, 3, 2}));
  EXPECT_EQ(trace.gate_order, GateOrder::unordered);
}

TEST(SglangRecord, RanksThatRecordedTheSameTokensCountOnce) {
  std::vector<std::string> notes;
  FormatOptions options;
  options.note = [&](const std::string& text) { notes.push_back(text); };
  EXPECT_EQ(choices("sglang-record", {fixture("per_token.pt"), fixture("per_token.pt")}, options).tokens(), 7);
  EXPECT_TRUE(std::any_of(notes.begin(), notes.end(),
                          [](const std::string& n) { return n.find("2 passes left out") != std::string::npos; }));
}

TEST(SglangRecord, CountsAreLoadOnly) {
  const ScratchFolder folder;
  FormatOptions options;
  expect_in("--top-k", refusal([&] { static_cast<void>(counts("sglang-record", {fixture("stat.pt")}, options)); }));
  std::string note;
  options.note = [&](const std::string& text) { note += text; };
  options.top_k = 2;
  const LoadTrace stat = counts("sglang-record", {fixture("stat.pt")}, options);
  expect_in("--objective load", note);
  EXPECT_EQ(stat.records(), 2);
  EXPECT_EQ(stat.layer_ids, (std::vector<int>{1, 2}));
  EXPECT_EQ(counts("sglang-record", {fixture("per_pass.pt")}, options).counts, stat.counts)
      << "slots added up by expert are what stat mode counts";
  const auto per_token = choices("sglang-record", {fixture("per_token.pt")});
  const std::vector<WeightedTrace> all{{&per_token}};
  EXPECT_EQ(count(stat).load, count(all).load);
  expect_in("can't become a coterie-trace",
            refusal([&] { format("coterie-trace").write(folder / "t.safetensors", stat, options); }));
  format("coterie-load").write(folder / "l.safetensors", stat, options);
  EXPECT_EQ(read_load_trace(folder / "l.safetensors").counts, stat.counts);
}

TEST(SglangRecord, DamagedFilesNeverCrash) {
  FormatOptions options;
  options.top_k = 2;
  for (const char* const name : {"per_token.pt", "stat.pt"})
    expect_no_damage_crashes(read_bytes(fixture(name)), name, true, 4000, [&](const std::filesystem::path& path) {
      static_cast<void>(format("sglang-record").read(Paths{path}, options));
    });
}

TEST(TensorrtLlm, StatisticsAreCountsOrChoices) {
  const ScratchFolder folder;
  write_bytes(folder / "meta_info.json", R"({"num_experts": 4, "num_experts_per_token": 2})");
  expect_recognised("tensorrt-llm-statistics", folder / "");
  expect_in("rank*.safetensors", refusal([&] { static_cast<void>(counts("tensorrt-llm-statistics", {folder / ""})); }));
  for (const std::string rank : {"0", "1"}) {
    SafetensorsWriter writer(folder / ("rank" + rank + ".safetensors"));
    add<std::int32_t>(writer, "50_3", ElementType::i32, {4}, {1, 2, 3, 0});
    add<std::int32_t>(writer, "50_5", ElementType::i32, {4}, {0, 0, 3, 3});
    add<std::int32_t>(writer, "51_3", ElementType::i32, {4}, {2, 0, 0, 0});
    add<std::int32_t>(writer, "51_5", ElementType::i32, {4}, {0, 1, 1, 0});
    writer.finish();
  }
  const LoadTrace load = counts("tensorrt-llm-statistics", {folder / ""});
  EXPECT_EQ(load.counts, (std::vector<std::uint32_t>{2, 4, 6, 0, 0, 0, 6, 6, 4, 0, 0, 0, 0, 2, 2, 0}))
      << "ranks are added up, an iteration is a record";
  EXPECT_EQ(load.layer_ids, (std::vector<int>{3, 5}));
  EXPECT_EQ(load.top_k, 2);

  {
    SafetensorsWriter writer(folder / "rank0_raw.safetensors");
    add<std::int32_t>(writer, "50_3", ElementType::i32, {2, 2}, {0, 1, 2, 3});
    add<std::int32_t>(writer, "50_5", ElementType::i32, {2, 2}, {3, 2, 1, 0});
    writer.finish();
  }
  EXPECT_EQ(choices("tensorrt-llm-statistics", {folder / ""}).experts, (Experts{0, 1, 3, 2, 2, 3, 1, 0}));
  {
    SafetensorsWriter writer(folder / "rank0_raw.safetensors");
    add<std::int32_t>(writer, "50_3", ElementType::i32, {2, 2}, {0, 1, 2, 3});
    add<std::int32_t>(writer, "50_5", ElementType::i32, {1, 2}, {3, 2});
    writer.finish();
  }
  expect_in("same tokens at every layer",
            refusal([&] { static_cast<void>(choices("tensorrt-llm-statistics", {folder / ""})); }));
}

TEST(Vllm, RoutedExpertsAreARequestAFile) {
  const ScratchFolder folder;
  save_npy<std::int32_t>(folder / "a.npy", "<i4", "(2, 3, 2)", {0, 0, 1, 2, 3, 4, 0, 0, 2, 1, 4, 3});
  save_npy<std::int32_t>(folder / "b.npy", "<i4", "(1, 3, 2)", {0, 0, 5, 1, 2, 3});
  expect_recognised("vllm-routed-experts", folder / "a.npy");
  const Trace trace = choices("vllm-routed-experts", {folder / "a.npy", folder / "b.npy"});
  EXPECT_EQ(trace.layer_ids, (std::vector<int>{1, 2})) << "a row with one expert twice is a dense layer's";
  EXPECT_EQ(trace.experts, (Experts{1, 2, 3, 4, 2, 1, 4, 3, 5, 1, 2, 3}));
  EXPECT_EQ(trace.sequence, (std::vector<std::int32_t>{0, 0, 1}));
  EXPECT_EQ(trace.position, (std::vector<std::int32_t>{0, 1, 0}));
  EXPECT_EQ(trace.num_experts, 6);
  FormatOptions options;
  options.experts = 5;
  expect_in("below 5", refusal([&] {
              static_cast<void>(choices("vllm-routed-experts", {folder / "a.npy", folder / "b.npy"}, options));
            }));
  options.experts = 8;
  options.dense_layers = {0};
  options.layer_ids = {3, 4};
  EXPECT_EQ(choices("vllm-routed-experts", {folder / "a.npy"}, options).layer_ids, (std::vector<int>{3, 4}));
  options.layer_ids = {3};
  expect_in("--layer-ids",
            refusal([&] { static_cast<void>(choices("vllm-routed-experts", {folder / "a.npy"}, options)); }));
}

TEST(Vllm, LoadStatisticsAreAddedUpByExpert) {
  const ScratchFolder folder;
  FormatOptions options;
  options.top_k = 2;
  const std::string record =
      R"({"record_type":"eplb_load_stats","version":1,"step":7,"num_ranks":2,"expert_load":[[1,2,3,4]],"p2l_map":[[0,1,2,0]]})";
  write_bytes(folder / "s.jsonl", "{\"record_type\":\"eplb_load_meta\"}\n" + record + "\n" + record + "\n");
  expect_recognised("vllm-load-stats", folder / "s.jsonl");
  EXPECT_EQ(counts("vllm-load-stats", {folder / "s.jsonl"}, options).counts,
            (std::vector<std::uint32_t>{5, 2, 3, 5, 2, 3}));
  write_bytes(folder / "s.jsonl", R"({"record_type":"eplb_load_stats","expert_load":[[1,2]],"p2l_map":[[0,1,2,0]]})");
  expect_in("s.jsonl:1", refusal([&] { static_cast<void>(counts("vllm-load-stats", {folder / "s.jsonl"}, options)); }));
}

std::string megatron_record(int step, int layer, const std::string& rows, int tokens,
                            const std::string& block = "decoder") {
  return R"({"step":)" + std::to_string(step) + R"(,"stage":"pre_dispatch","block":")" + block + R"(","layer":)" +
         std::to_string(layer) + R"(,"rank":0,"num_tokens":)" + std::to_string(tokens) + R"(,"topk":2,"top_indices":)" +
         rows + "}\n";
}

TEST(Megatron, LayersOfAStepStandSideBySide) {
  const ScratchFolder folder;
  const auto path = folder / "router_trace_rank0.jsonl";
  write_bytes(path, megatron_record(0, 3, "[[0,1],[2,3]]", 2) + megatron_record(0, 5, "[[1,2],[0,3]]", 2) +
                        megatron_record(0, 0, "[[9,9]]", 1, "mtp") + megatron_record(1, 3, "[[3,1]]", 1) +
                        megatron_record(1, 5, "[[2,0]]", 1) + megatron_record(2, 3, "[[3,1]]", 1));
  expect_recognised("megatron-trace", path);
  expect_recognised("megatron-trace", folder / "");
  std::string notes;
  FormatOptions options;
  options.note = [&](const std::string& text) { notes += text; };
  const Trace trace = choices("megatron-trace", {folder / ""}, options);
  EXPECT_EQ(trace.experts, (Experts{0, 1, 1, 2, 2, 3, 0, 3, 3, 1, 2, 0}));
  EXPECT_EQ(trace.layer_ids, (std::vector<int>{3, 5}));
  expect_in("1 steps left out", notes);
  expect_in("multi-token prediction", notes);

  write_bytes(path, megatron_record(0, 3, "[[0,1]]", 1) + megatron_record(0, 3, "[[2,3]]", 1) +
                        megatron_record(0, 5, "[[1,2]]", 1) + megatron_record(0, 5, "[[0,3]]", 1));
  EXPECT_EQ(choices("megatron-trace", {path}).experts, (Experts{0, 1, 1, 2, 2, 3, 0, 3})) << "micro-batches of a step";
  write_bytes(folder / "router_trace_rank1.jsonl", megatron_record(0, 7, "[[0,1]]", 1));
  expect_in("ranks of a pipeline", refusal([&] { static_cast<void>(choices("megatron-trace", {folder / ""})); }));
  write_bytes(path, megatron_record(0, 3, "[[0,1],[2]]", 2));
  expect_in("rank0.jsonl:1: top_indices[1]", refusal([&] { static_cast<void>(choices("megatron-trace", {path})); }));
}

TEST(HfRouterLogits, TheLargestLogitsAreTheChoices) {
  const ScratchFolder folder;
  const auto path = folder / "logits.safetensors";
  const std::vector<float> first{0, 2, 1, -1, 3, 3, 0, 0};
  const std::vector<float> second{1, 0, 0, 1, -5, 2, 4, 1};
  {
    SafetensorsWriter writer(path);
    add(writer, "router_logits.10", ElementType::f32, {2, 4}, second);
    add(writer, "router_logits.2", ElementType::f32, {2, 4}, first);
    writer.finish();
  }
  expect_recognised("hf-router-logits", path);
  FormatOptions options;
  options.top_k = 2;
  expect_in("--router softmax", refusal([&] { static_cast<void>(choices("hf-router-logits", {path}, options)); }));
  options.normalized = false;
  Trace trace = choices("hf-router-logits", {path}, options);
  EXPECT_EQ(trace.layer_ids, (std::vector<int>{2, 10})) << "by number, not by name";
  EXPECT_EQ(trace.experts, (Experts{1, 2, 0, 3, 0, 1, 2, 1}));
  EXPECT_EQ(trace.gate_order, GateOrder::descending);
  const double sum = 1 + std::exp(2) + std::exp(1) + std::exp(-1);
  EXPECT_NEAR(trace.weights[0], std::exp(2) / sum, 1e-3);
  options.normalized = true;
  trace = choices("hf-router-logits", {path}, options);
  EXPECT_NEAR(trace.weights[0], std::exp(2) / (std::exp(2) + std::exp(1)), 1e-3);
  EXPECT_NEAR(trace.weights[0] + trace.weights[1], 1, 1e-3);

  // The same tuple as torch.save writes it, its second tensor bfloat16 and stored by columns.
  const std::filesystem::path saved = std::filesystem::path(COTERIE_FIXTURES) / "router_logits" / "router_logits.pt";
  expect_recognised("hf-router-logits", saved);
  EXPECT_EQ(choices("hf-router-logits", {saved}, options).experts, trace.experts);
  EXPECT_EQ(choices("hf-router-logits", {saved}, options).weights, trace.weights);
  expect_in("SGLang record", refusal([&] { static_cast<void>(choices("sglang-record", {saved}, options)); }));
  expect_in("a tuple of tensors",
            refusal([&] { static_cast<void>(choices("hf-router-logits", {fixture("stat.pt")}, options)); }));

  save_npy<float>(folder / "all.npy", "<f4", "(2, 2, 4)", {0, 2, 1, -1, 3, 3, 0, 0, 1, 0, 0, 1, -5, 2, 4, 1});
  EXPECT_EQ(choices("hf-router-logits", {folder / "all.npy"}, options).experts, trace.experts);
  save_npy<float>(folder / "layer_3.npy", "<f4", "(1, 2, 4)", first);
  save_npy<float>(folder / "layer_4.npy", "<f4", "(1, 2, 4)", second);
  const Trace sequences = choices("hf-router-logits", {folder / "layer_3.npy", folder / "layer_4.npy"}, options);
  EXPECT_EQ(sequences.layer_ids, (std::vector<int>{3, 4}));
  EXPECT_EQ(sequences.sequence, (std::vector<std::int32_t>{0, 0}));
  save_npy<float>(folder / "layer_4.npy", "<f4", "(1, 2, 4)", {1, 0, 0, 1, -5, NAN, 4, 1});
  expect_in("not finite", refusal([&] {
              static_cast<void>(choices("hf-router-logits", {folder / "layer_3.npy", folder / "layer_4.npy"}, options));
            }));
}

TEST(HfRouterLogits, DamagedFilesNeverCrash) {
  FormatOptions options;
  options.top_k = 2;
  options.normalized = false;
  const auto saved = std::filesystem::path(COTERIE_FIXTURES) / "router_logits" / "router_logits.pt";
  expect_no_damage_crashes(read_bytes(saved), "router_logits.pt", true, 2000, [&](const std::filesystem::path& path) {
    static_cast<void>(format("hf-router-logits").read(Paths{path}, options));
  });
}

TEST(Exflow, ATraceIsOneExpertATokenAndLayer) {
  const ScratchFolder folder;
  save_npy<std::int64_t>(folder / "t.npy", "<i8", "(3, 2)", {0, 1, 2, 3, 1, 1});
  const Trace trace = choices("exflow-trace", {folder / "t.npy"});
  EXPECT_EQ(trace.experts, (Experts{0, 1, 2, 3, 1, 1}));
  EXPECT_EQ(trace.top_k, 1);
  EXPECT_EQ(trace.num_experts, 4);
  EXPECT_EQ(trace.layers(), 2);
}

TEST(CoterieLoad, IsMadeOfATraceToo) {
  const ScratchFolder folder;
  const Trace trace = choices("sglang-record", {fixture("per_token.pt")});
  format("coterie-load").write(folder / "l.safetensors", trace, {});
  const LoadTrace load = read_load_trace(folder / "l.safetensors");
  const std::vector<WeightedTrace> all{{&trace}};
  EXPECT_EQ(load.records(), 4) << "one for each sequence";
  EXPECT_EQ(count(load).load, count(all).load);
}

TEST(Npy, OtherElementsAreConvertedAndWrongFilesRefused) {
  const ScratchFolder folder;
  const auto path = folder / "a.npy";
  save_npy<std::uint8_t>(path, "|u1", "(3,)", {1, 2, 255});
  EXPECT_EQ(NpyFile(path).integers(), (std::vector<std::int32_t>{1, 2, 255}));
  save_npy<std::int16_t>(path, "<i2", "(2, 1)", {-1, 300});
  EXPECT_EQ(NpyFile(path).integers(), (std::vector<std::int32_t>{-1, 300}));
  save_npy<std::uint32_t>(path, "<u4", "(1,)", {4000000000U});
  EXPECT_THROW(static_cast<void>(NpyFile(path).integers()), InputError);
  save_npy<std::int64_t>(path, "<i8", "(2,)", {-2, 7});
  EXPECT_EQ(NpyFile(path).integers(), (std::vector<std::int32_t>{-2, 7}));
  save_npy<double>(path, "<f8", "(1,)", {.5});
  EXPECT_EQ(NpyFile(path).floats(), std::vector<float>{.5F});
  EXPECT_THROW(static_cast<void>(NpyFile(path).integers()), InputError);
  save_npy<std::uint16_t>(path, "<f2", "()", {0x3c00});
  EXPECT_EQ(NpyFile(path).floats(), std::vector<float>{1});
  save_npy<std::int32_t>(path, ">i4", "(1,)", {1});
  EXPECT_THROW(NpyFile{path}, InputError) << "big-endian";
  save_npy<std::int32_t>(path, "<i4", "(99999999999999999999, 3)", {1});
  EXPECT_THROW(NpyFile{path}, InputError);
  save_npy<std::int32_t>(path, "<i4", "(2, 3)", {0, 1, 2, 3, 4, 5});
  expect_no_damage_crashes(read_bytes(path), "a.npy", true, 2000,
                           [](const std::filesystem::path& p) { static_cast<void>(NpyFile(p).integers()); });
}

}  // namespace
}  // namespace coterie
