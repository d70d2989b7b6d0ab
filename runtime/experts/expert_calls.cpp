#include "runtime/experts/expert_calls.hpp"

#include <algorithm>
#include <string>

namespace coterie {
namespace {

constexpr std::int64_t kPieceFlop = 100'000'000;  // a millisecond of a core, about
constexpr std::int64_t kPieceRows = 16;  // of an expert at least, however large it is: each piece reads its weights

std::int64_t flop_of_row(const ExpertWeights& weights) {
  const PackedMatrix& gate_up = *weights.gate_up;
  const PackedMatrix& down = *weights.down;
  return 2 * (gate_up.out_features() * gate_up.in_features() + down.out_features() * down.in_features());
}

}  // namespace

std::vector<ExpertRows> compute_meanwhile(Exchange& exchange, std::span<const ExpertRows> calls, const Tensor& in,
                                          const Tensor& out, Device& device) {
  if (!device.is_the_host()) {  // it only takes note of them
    if (!calls.empty()) device.experts(in, calls, out);
    return {};
  }
  std::vector<ExpertRows> left(calls.rbegin(), calls.rend());
  std::vector<ExpertRows> piece;
  while (!left.empty() && !exchange.progress()) {
    piece.clear();
    for (std::int64_t flop = 0; flop < kPieceFlop && !left.empty();) {
      ExpertRows& next = left.back();
      const std::int64_t row = flop_of_row(*next.expert);
      const std::int64_t rows = std::min(next.rows, std::max(kPieceRows, (kPieceFlop - flop + row - 1) / row));
      piece.push_back({next.expert, next.first_row, rows});
      flop += rows * row;
      next.first_row += rows;
      next.rows -= rows;
      if (next.rows == 0) left.pop_back();
    }
    device.experts(in, piece, out);
  }
  std::reverse(left.begin(), left.end());
  return left;
}

void compute_experts(const GroupedCall& call, Exchange& exchange, Device& device) {
  const GroupedRows& groups = call.groups;
  const auto rows_of = [&](std::size_t g, const ExpertWeights* expert) {
    return ExpertRows{expert, groups.first[g], groups.first[g + 1] - groups.first[g]};
  };
  std::vector<ExpertRows> here;
  std::vector<std::size_t> missing;
  for (std::size_t g = 0; g < groups.experts.size(); ++g) {
    const ExpertWeights* expert = call.weights(groups.experts[g]);
    expert != nullptr ? here.push_back(rows_of(g, expert)) : missing.push_back(g);
  }
  std::vector<ExpertRows> rest = compute_meanwhile(exchange, here, call.in, call.out, device);
  if (!missing.empty()) device.start();
  call.take(exchange.all());
  for (const std::size_t g : missing) {
    const ExpertWeights* expert = call.weights(groups.experts[g]);
    if (expert == nullptr) {
      throw CommError("layer " + std::to_string(call.layer) + ": a row arrived for expert " +
                      std::to_string(groups.experts[g]) + ", which this rank doesn't have");
    }
    rest.push_back(rows_of(g, expert));
  }
  device.experts(call.in, rest, call.out);
}

}  // namespace coterie
