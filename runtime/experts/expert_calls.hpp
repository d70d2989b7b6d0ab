// The grouped products of experts while an exchange is under way.
#pragma once

#include "comm/exchange.hpp"
#include "runtime/experts/dispatch.hpp"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace coterie {

/// Computes `calls` in pieces, between which the exchange moves on, for as long as it is under way; a device that isn't
/// the host is given them at once. Returns what is left of them when all is here.
[[nodiscard]] std::vector<ExpertRows> compute_meanwhile(Exchange& exchange, std::span<const ExpertRows> calls,
                                                        const Tensor& in, const Tensor& out, Device& device);

struct GroupedCall {
  const GroupedRows& groups;
  int layer = -1;  ///< for messages
  Tensor in, out;  ///< (pairs, hidden)
  /// Of an expert: none where they are not here, or not yet.
  std::function<const ExpertWeights*(std::int32_t expert)> weights;
  /// Called when all is here, before missing weights are asked for again.
  std::function<void(Inbox& arrived)> take;
};

/// All rows through their experts: those that wait for no weights while others' are under way, the rest in one grouped
/// call. Finishes the exchange, whose rows are here. A row's result is the same to the last bit however long weights
/// take. Throws CommError when an expert's weights didn't come.
void compute_experts(const GroupedCall& call, Exchange& exchange, Device& device);

}  // namespace coterie
