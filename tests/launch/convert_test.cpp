#include "launch/command.hpp"
#include "launch/convert_options.hpp"
#include "placement/input_error.hpp"
#include "placement/plan.hpp"
#include "placement/trace/trace.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace coterie {
namespace {

int convert(const std::vector<std::string>& words) {
  std::vector<const char*> arguments;
  for (const std::string& w : words) arguments.push_back(w.c_str());
  return kConvert.run(arguments);
}

std::string refusal(const std::vector<std::string>& words) {
  try {
    convert(words);
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

void expect_in(const std::string& part, const std::string& text) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
}

TEST(Convert, ATraceIsKnownByItsContent) {
  const ScratchFolder folder;
  const std::string record = COTERIE_FIXTURES "/sglang/per_token.pt";
  const std::string out = folder / "t.safetensors";
  EXPECT_EQ(convert({record, "--output", out, "--model", "m"}), kDone);
  EXPECT_EQ(read_trace(out).tokens(), 7);
  EXPECT_EQ(read_trace(out).model, "m");
  expect_in("already", refusal({out, "-o", folder / "again.safetensors"}));
  expect_in("traces", refusal({out, "-o", folder / "p.json", "--to", "sglang"}));
  EXPECT_EQ(folder.files(), 1U) << "what is refused leaves nothing";
}

TEST(Convert, APlanGoesThereAndBack) {
  const ScratchFolder folder;
  Plan plan = contiguous_plan("m", {3, 4}, 8, 2, Topology{{2, 2}});
  std::swap(plan.physical_to_logical[0][0], plan.physical_to_logical[0][7]);
  write_plan(folder / "p.json", plan);
  EXPECT_EQ(convert({folder / "p.json", "-o", folder / "s.json", "--to", "sglang", "--num-hidden-layers", "6"}), kDone);
  EXPECT_EQ(convert({folder / "s.json", "-o", folder / "q.json", "--dense-layers", "0-2,5", "--ranks", "4", "--nodes",
                     "2", "--top-k", "2", "--model", "m"}),
            kDone);
  EXPECT_EQ(read_bytes(folder / "q.json"), read_bytes(folder / "p.json"));
  expect_in("second input", refusal({folder / "p.json", folder / "q.json", "-o", folder / "x", "--to", "eplb"}));
  expect_in("expected --to", refusal({folder / "p.json", "-o", folder / "x"}));
}

TEST(Convert, BadUsageIsRefused) {
  const ScratchFolder folder;
  write_bytes(folder / "what", "what is this?");
  expect_in("--from", refusal({folder / "what", "-o", folder / "x"}));
  expect_in("no such file", refusal({folder / "none", "-o", folder / "x"}));
  expect_in("no input", refusal({"-o", folder / "x"}));
  expect_in("--output", refusal({folder / "what"}));
  expect_in("--from", refusal({folder / "what", "-o", folder / "x", "--from", "parchment"}));
  expect_in("--dense-layers", refusal({folder / "what", "-o", folder / "x", "--dense-layers", "2-0"}));
  expect_in("--dense-layers", refusal({folder / "what", "-o", folder / "x", "--dense-layers", "2,1"}));
  expect_in("--top-k", refusal({folder / "what", "-o", folder / "x", "--top-k", "two"}));
  expect_in("--nodes", refusal({folder / "what", "-o", folder / "x", "--nodes", "2"}));
  expect_in("--gate-order", refusal({folder / "what", "-o", folder / "x", "--gate-order", "up"}));
  expect_in("DeepSeek-V3", refusal({folder / "what", "-o", folder / "x", "--router", "sigmoid"}));
  expect_in("--what", refusal({"--what"}));
}

TEST(Convert, WhatIsWrongWithADamagedFileIsSaid) {
  const ScratchFolder folder;
  for (const std::string from : {"/sglang/per_token.pt", "/traces/top1.trace.safetensors"}) {
    std::string bytes = read_bytes(COTERIE_FIXTURES + from);
    bytes.resize(bytes.size() / 2);
    const std::string cut = folder / ("cut" + std::filesystem::path(from).extension().string());
    write_bytes(cut, bytes);
    const std::string message = refusal({cut, "-o", folder / "x", "--to", "coterie-load"});
    expect_in(cut, message);
    expect_in("found", message);
    EXPECT_EQ(message.find("--from"), std::string::npos) << message;
  }
}

TEST(Convert, AnInputIsNoOutput) {
  const ScratchFolder folder;
  const std::string trace = folder / "t.safetensors";
  std::filesystem::copy_file(COTERIE_FIXTURES "/traces/top1.trace.safetensors", trace);
  const std::string before = read_bytes(trace);
  expect_in("another file than the input", refusal({trace, "-o", trace, "--to", "coterie-load"}));
  EXPECT_EQ(read_bytes(trace), before);
}

TEST(Convert, HelpListsEveryFormatOnOneScreen) {
  const std::string help = convert_help();
  for (const TraceFormat& f : trace_formats()) expect_in(std::string(f.name), help);
  for (const PlanFormat& f : plan_formats()) expect_in(std::string(f.name), help);
  EXPECT_LE(std::count(help.begin(), help.end(), '\n'), 45);
  EXPECT_EQ(convert({"--help"}), kDone);
}

}  // namespace
}  // namespace coterie
