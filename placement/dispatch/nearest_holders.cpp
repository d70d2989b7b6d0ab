#include "placement/dispatch/nearest_holders.hpp"

#include <algorithm>
#include <map>

namespace coterie {

std::vector<int> nearest_holders(std::span<const int> holders, std::span<const int> node_of_rank) {
  /// Ranks that send to the same holders.
  struct Senders {
    std::vector<int> ranks, holders;
  };
  std::map<int, Senders> of_node;
  for (const int holder : holders) of_node[node_of_rank[holder]].holders.push_back(holder);
  Senders others{{}, {holders.begin(), holders.end()}};
  std::vector<int> nearest(node_of_rank.size());
  for (std::size_t r = 0; r < nearest.size(); ++r) {
    const auto rank = static_cast<int>(r);
    const auto node = of_node.find(node_of_rank[r]);
    if (std::binary_search(holders.begin(), holders.end(), rank)) {
      nearest[r] = rank;
    } else {
      (node != of_node.end() ? node->second : others).ranks.push_back(rank);
    }
  }
  const auto deal = [&](const Senders& senders) {
    for (std::size_t i = 0; i < senders.ranks.size(); ++i) {
      nearest[senders.ranks[i]] = senders.holders[i * senders.holders.size() / senders.ranks.size()];
    }
  };
  for (const auto& [node, senders] : of_node) deal(senders);
  deal(others);
  return nearest;
}

}  // namespace coterie
