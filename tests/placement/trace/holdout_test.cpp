#include "placement/trace/holdout.hpp"

#include "placement/input_error.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <tuple>

namespace coterie {
namespace {

/// Of one layer and one choice; as many sequences of 1 to 9 tokens.
Trace trace_of(int sequences, unsigned seed) {
  std::mt19937 random(seed);
  Trace trace;
  trace.num_experts = 2;
  trace.top_k = 1;
  trace.layer_ids = {0};
  for (int s = 0; s < sequences; ++s) {
    const auto tokens = 1 + random() % 9;
    trace.sequence.insert(trace.sequence.end(), tokens, s);
    trace.experts.insert(trace.experts.end(), tokens, 1);
  }
  return trace;
}

/// The sequences of one side. Each of its windows is a run of whole ones.
std::set<int> sequences_of(const std::vector<WeightedTrace>& side, const Trace& trace) {
  std::set<int> found;
  for (const WeightedTrace& window : side) {
    const std::int64_t end = window.first + window.count;
    EXPECT_TRUE(window.first == 0 || trace.sequence[window.first - 1] != trace.sequence[window.first]);
    EXPECT_TRUE(end == trace.tokens() || trace.sequence[end - 1] != trace.sequence[end]);
    found.insert(trace.sequence.begin() + window.first, trace.sequence.begin() + end);
  }
  return found;
}

TEST(Holdout, LeavesOutWholeSequencesAsManyAsAsked) {
  for (const auto& [sequences, share, out] :
       {std::tuple(40, 0.25, 10U), {40, 0.001, 1U}, {40, 0.999, 39U}, {2, 0.5, 1U}}) {
    const Trace trace = trace_of(sequences, 3);
    const Split split = hold_out({{&trace, 2}}, share, 7);
    const std::set<int> fitted = sequences_of(split.fitted, trace), left_out = sequences_of(split.left_out, trace);
    EXPECT_EQ(left_out.size(), out);
    EXPECT_EQ(fitted.size() + left_out.size(), static_cast<std::size_t>(sequences));
    std::int64_t tokens = 0;
    for (const auto* side : {&split.fitted, &split.left_out}) {
      for (const WeightedTrace& window : *side) {
        EXPECT_EQ(window.weight, 2);
        tokens += window.count;
      }
    }
    EXPECT_EQ(tokens, trace.tokens());
  }
}

TEST(Holdout, TakesBlocksOfTokensForSequencesWhereTheyAreNotKnown) {
  Trace trace = trace_of(400, 5);
  trace.sequence.clear();
  const std::int64_t first = 100;
  for (const Split& split = hold_out({{&trace, 1, first}}, 0.5, 7);
       const auto* side : {&split.fitted, &split.left_out}) {
    for (const WeightedTrace& window : *side) {
      EXPECT_EQ((window.first - first) % 256, 0);
      const std::int64_t end = window.first + window.count;
      EXPECT_TRUE((end - first) % 256 == 0 || end == trace.tokens());
    }
  }
}

TEST(Holdout, NeedsTwoSequences) {
  const Trace one = trace_of(1, 3);
  EXPECT_THROW((void)hold_out({{&one}}, 0.5, 1), InputError);
}

}  // namespace
}  // namespace coterie
