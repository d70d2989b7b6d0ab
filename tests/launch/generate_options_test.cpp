#include "launch/generate_options.hpp"

#include "placement/input_error.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <sstream>
#include <vector>

namespace coterie {
namespace {

std::optional<GenerateOptions> parse(std::vector<const char*> extra) {
  std::vector<const char*> all{"--model", "m", "--input", "i", "--output", "o"};
  all.insert(all.end(), extra.begin(), extra.end());
  return parse_generate_options(all);
}

/// What the user is told.
std::string complaint(const std::vector<const char*>& arguments) {
  try {
    static_cast<void>(parse_generate_options(arguments));
  } catch (const InputError& e) {
    return e.what();
  }
  return "nothing";
}

std::string complaint_about(std::vector<const char*> extra) {
  std::vector<const char*> all{"--model", "m", "--input", "i", "--output", "o"};
  all.insert(all.end(), extra.begin(), extra.end());
  return complaint(all);
}

TEST(GenerateOptions, TransportsHaveNames) {
  EXPECT_EQ(parse({})->transport, Transport::any);
  EXPECT_EQ(parse({"--transport", "nccl"})->transport, Transport::nccl);
  EXPECT_NE(complaint_about({"--transport", "tcp"}).find("expected mpi, nccl or auto"), std::string::npos);
  EXPECT_EQ(parse({})->low_latency, std::nullopt);
  EXPECT_EQ(parse({"--low-latency", "on", "--device", "cuda"})->low_latency, true);
  EXPECT_NE(complaint_about({"--low-latency", "1", "--device", "cuda"}).find("expected on, off or auto"),
            std::string::npos);
}

TEST(GenerateOptions, ThreePathsAreEnough) {
  const auto o = parse({});
  ASSERT_TRUE(o);
  EXPECT_EQ(o->model, "m");
  EXPECT_EQ(o->input, "i");
  EXPECT_EQ(o->output, "o");
  EXPECT_TRUE(o->plan.empty() && o->trace_out.empty() && o->logits_out.empty() && o->metrics.empty());
  EXPECT_EQ(o->dtype, DType::f32);
  EXPECT_EQ(o->threads, 1);
  EXPECT_EQ(o->experts_per_token, 0);
  EXPECT_EQ(o->seed, 0U);
  EXPECT_EQ(o->timeout.count(), 300);
  EXPECT_EQ(o->ranks_per_node, 0);
  EXPECT_FALSE(o->kv_memory);
}

TEST(GenerateOptions, EveryOptionIsTaken) {
  const auto o = parse({"--plan=p", "--trace-out=t", "--logits-out=l", "--metrics=x", "--dtype=bf16", "--threads=2",
                        "--seed=18446744073709551615", "--max-batch-tokens=64", "--max-batch-size=7", "--timeout=1.5",
                        "--ranks-per-node=3", "--kv-memory=1.5GiB"});
  ASSERT_TRUE(o);
  EXPECT_EQ(o->plan, "p");
  EXPECT_EQ(o->trace_out, "t");
  EXPECT_EQ(o->logits_out, "l");
  EXPECT_EQ(o->metrics, "x");
  EXPECT_EQ(o->dtype, DType::bf16);
  EXPECT_EQ(o->threads, 2);
  EXPECT_EQ(o->seed, UINT64_MAX);
  EXPECT_EQ(o->max_batch_tokens, 64);
  EXPECT_EQ(o->max_batch_size, 7);
  EXPECT_EQ(o->timeout.count(), 1.5);
  EXPECT_EQ(o->ranks_per_node, 3);
  EXPECT_EQ(o->kv_memory, 3ULL << 29);
}

TEST(GenerateOptions, Device) {
  EXPECT_EQ(parse({})->device, DeviceKind::cpu);
  EXPECT_EQ(parse({"--device=cuda"})->device, DeviceKind::cuda);
  EXPECT_EQ(parse({"--device", "auto"})->device, DeviceKind::any);
  EXPECT_FALSE(parse({"--device=cuda"})->share_gpu);
  EXPECT_TRUE(parse({"--device=cuda", "--share-gpu"})->share_gpu);
  EXPECT_EQ(parse({})->expert_kernels, ExpertKernels::best);
  EXPECT_EQ(parse({"--device=auto", "--expert-kernels=cublas"})->expert_kernels, ExpertKernels::cublas);
  EXPECT_NE(complaint_about({"--device=cuda", "--expert-kernels=cutlass"}).find("mma, wgmma or cublas"),
            std::string::npos);
  EXPECT_TRUE(parse({})->cuda_graphs);
  EXPECT_FALSE(parse({"--device=cuda", "--cuda-graphs=off"})->cuda_graphs);
  EXPECT_NE(complaint_about({"--device=cuda", "--cuda-graphs=no"}).find("on or off"), std::string::npos);
  EXPECT_NE(complaint_about({"--device=gpu"}).find("cpu, cuda or auto"), std::string::npos);
}

TEST(GenerateOptions, WhatConcernsGpusIsRefusedOnTheCpu) {
  for (const std::string option : {"--expert-kernels=auto", "--share-gpu", "--cuda-graphs=off", "--low-latency=off"}) {
    for (const char* device : {"--device=cuda", "--device=auto"})
      EXPECT_TRUE(parse({option.c_str(), device})) << option;
    const std::string name = option.substr(0, option.find('='));
    EXPECT_EQ(complaint_about({option.c_str()}),
              "coterie generate: " + name + ": found --device cpu, expected --device cuda or auto beside it");
  }
}

TEST(GenerateOptions, Dispatch) {
  EXPECT_EQ(parse({})->dispatch.policy, DispatchPolicy::least_loaded);
  EXPECT_EQ(parse({})->spill_cache, 512U << 20);
  const auto o =
      parse({"--dispatch=llep", "--llep-alpha=1.5", "--llep-min-rows=7", "--llep-threshold=2", "--spill-cache=0"});
  EXPECT_EQ(o->dispatch.policy, DispatchPolicy::llep);
  EXPECT_EQ(o->dispatch.llep_alpha, 1.5);
  EXPECT_EQ(o->dispatch.llep_min_rows, 7);
  EXPECT_EQ(o->dispatch.llep_threshold, 2);
  EXPECT_EQ(o->spill_cache, 0U);
  EXPECT_EQ(parse({"--dispatch=plain"})->dispatch.policy, DispatchPolicy::plain);
  EXPECT_NE(complaint_about({"--dispatch=fair"}).find("plain, llep or least-loaded"), std::string::npos);
  const std::string complaint = complaint_about({"--llep-min-rows=3000000000"});
  EXPECT_NE(complaint.find("--llep-min-rows"), std::string::npos);
  EXPECT_NE(complaint.find("1 to 2147483647"), std::string::npos) << complaint;
  EXPECT_NE(complaint_about({"--spill-cache=-1"}).find("--spill-cache"), std::string::npos);
}

TEST(GenerateOptions, SizesHaveUnits) {
  const auto size = [](const char* text) { return *parse({"--kv-memory", text})->kv_memory; };
  EXPECT_EQ(size("4096"), 4096U);
  EXPECT_EQ(size("512MiB"), 512U << 20);
  EXPECT_EQ(size("512M"), 512U << 20);
  EXPECT_EQ(size("2GB"), 2000000000U);
  EXPECT_FALSE(parse({"--kv-memory=auto"})->kv_memory);
  for (const char* wrong : {"", "x", "-1", "0", "1XB", "MiB", "1e30", "nan", "1 MiB"}) {
    EXPECT_NE(complaint_about({"--kv-memory", wrong}).find("--kv-memory"), std::string::npos) << wrong;
  }
}

TEST(GenerateOptions, AWrongOptionIsNamedWithWhatWasFoundAndExpected) {
  EXPECT_EQ(complaint_about({"--threads=two"}),
            "coterie generate: --threads: found 'two', expected a whole number from 1 to 1024");
  for (const auto& [option, value] : std::initializer_list<std::pair<const char*, const char*>>{
           {"--threads", "0"},
           {"--threads", "-1"},
           {"--threads", "1.5"},
           {"--threads", "99999999999999999999"},
           {"--seed", "-1"},
           {"--seed", "18446744073709551616"},
           {"--max-batch-tokens", "0"},
           {"--max-batch-size", "1k"},
           {"--timeout", "0"},
           {"--timeout", "inf"},
           {"--timeout", "nan"},
           {"--timeout", ""},
           {"--dtype", "fp16"},
           {"--ranks-per-node", "0"},
           {"--plan", ""},
       }) {
    const std::string text = complaint_about({option, value});
    EXPECT_NE(text.find(option), std::string::npos) << option << ' ' << value << ": " << text;
    EXPECT_NE(text.find("expected"), std::string::npos) << text;
  }
}

TEST(GenerateOptions, BadUsageIsSaid) {
  EXPECT_NE(complaint({"--input", "i", "--output", "o"}).find("--model is missing"), std::string::npos);
  EXPECT_NE(complaint({}).find("is missing"), std::string::npos);
  EXPECT_NE(complaint_about({"--frobnicate"}).find("--frobnicate"), std::string::npos);
  EXPECT_NE(complaint_about({"--metr", "x"}).find("--metr"), std::string::npos) << "no guessing";
  EXPECT_NE(complaint_about({"--seed"}).find("--seed"), std::string::npos);
  EXPECT_NE(complaint_about({"--model", "again"}).find("--model"), std::string::npos);
  EXPECT_NE(complaint_about({"stray"}), "nothing");
}

TEST(GenerateOptions, TheSimplestFormOfCoherenceUnlessSomethingIsLeftToTheProgram) {
  const auto plain = parse({});
  EXPECT_EQ(plain->coherence, Coherence::rank);
  EXPECT_EQ(plain->replicate, false);
  EXPECT_EQ(plain->micro_batches, 1);
  const auto world = parse({"--coherence=world", "--dense=replicate", "--micro-batches=2", "--machine=m.json"});
  EXPECT_EQ(world->coherence, Coherence::world);
  EXPECT_EQ(world->replicate, true);
  EXPECT_EQ(world->micro_batches, 2);
  EXPECT_EQ(world->machine, "m.json");
  EXPECT_EQ(parse({"--coherence=node"})->replicate, false);
  const auto chosen = parse({"--coherence=auto"});
  EXPECT_FALSE(chosen->coherence || chosen->replicate || chosen->micro_batches);
  const auto in_part = parse({"--coherence=auto", "--dense=follow", "--micro-batches=1"});
  EXPECT_FALSE(in_part->coherence);
  EXPECT_EQ(in_part->replicate, false);
  EXPECT_EQ(in_part->micro_batches, 1);
  EXPECT_FALSE(parse({"--coherence=world", "--dense=auto"})->replicate);
  EXPECT_EQ(parse({"--dense=auto"})->replicate, false) << "a domain of one rank has nothing to replicate on";

  for (const auto& [option, value] :
       std::initializer_list<std::pair<const char*, const char*>>{{"--coherence", "all"},
                                                                  {"--coherence", ""},
                                                                  {"--dense", "yes"},
                                                                  {"--micro-batches", "3"},
                                                                  {"--micro-batches", "0"},
                                                                  {"--machine", ""}}) {
    const std::string text = complaint_about({option, value});
    EXPECT_NE(text.find(option), std::string::npos) << option << ' ' << value << ": " << text;
  }
  EXPECT_NE(complaint_about({"--dense", "replicate"}).find("--coherence rank"), std::string::npos);
}

TEST(GenerateOptions, HelpComesFirstAndFitsAScreen) {
  EXPECT_FALSE(parse_generate_options(std::vector<const char*>{"--help"}));
  EXPECT_FALSE(parse({"-h"}));
  std::istringstream help(generate_help());
  int lines = 0;
  for (std::string line; std::getline(help, line); ++lines) EXPECT_LE(line.size(), 100U) << line;
  EXPECT_LE(lines, 44);
  for (const char* option : {"--model", "--kv-memory", "--timeout", "(=2048)", "(=f32)", "(=auto)"}) {
    EXPECT_NE(generate_help().find(option), std::string::npos) << option;
  }
}

}  // namespace
}  // namespace coterie
