#include "placement/dispatch/dispatch_layer.hpp"

#include "placement/splitmix.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace coterie {

DispatchLayer::DispatchLayer(std::vector<int> nodes_of, std::vector<int> to, std::vector<std::uint8_t> holds)
    : ranks(static_cast<int>(nodes_of.size())),
      nodes(nodes_of.empty() ? 0 : *std::max_element(nodes_of.begin(), nodes_of.end()) + 1),
      experts(ranks == 0 ? 0 : static_cast<int>(to.size()) / ranks),
      holders(static_cast<int>(std::count_if(holds.begin(), holds.end(), [](std::uint8_t h) { return h != 0; }))),
      node_of_rank(std::move(nodes_of)),
      destinations(std::move(to)),
      held(std::move(holds)),
      only_holder(experts, -1),
      shared_index(experts, -1),
      shared{{}, {0}, {}, {0}, {}, {}},
      detours(experts, 0),
      signature(ranks, 0) {
  const std::size_t cells = static_cast<std::size_t>(ranks) * experts;
  if (ranks == 0 || destinations.size() != cells || held.size() != cells) {
    throw std::invalid_argument("DispatchLayer: destinations and held must be (ranks, experts)");
  }
  for (int e = 0; e < experts; ++e) {
    int count = 0, last = -1;
    for (int r = 0; r < ranks; ++r) {
      if (held[static_cast<std::size_t>(e) * ranks + r] == 0) continue;
      ++count;
      last = r;
      signature[r] += SplitMix(~static_cast<std::uint64_t>(e)).next();
    }
    for (int r = 0; r < ranks; ++r) {
      const bool own = held[static_cast<std::size_t>(e) * ranks + r] != 0;
      const int d = destinations[static_cast<std::size_t>(r) * experts + e];
      if (d < 0 || d >= ranks || held[static_cast<std::size_t>(e) * ranks + d] == 0) {
        throw std::invalid_argument("DispatchLayer: rows of expert " + std::to_string(e) + " go to rank " +
                                    std::to_string(d) + ", which doesn't hold it");
      }
      if (own && d != r) detours[e] = 1;
    }
    if (count == 1) {
      only_holder[e] = last;
    } else {
      share(e);
    }
  }
  find_ways();
}

void DispatchLayer::share(int expert) {
  shared_index[expert] = static_cast<int>(shared.experts.size());
  shared.experts.push_back(expert);
  for (int r = 0; r < ranks; ++r) {
    const int to = destinations[static_cast<std::size_t>(r) * experts + expert];
    if (r == 0 || shared.runs.back().rank != to) shared.runs.push_back({r, r, to});
    ++shared.runs.back().to;
    if (held[static_cast<std::size_t>(expert) * ranks + r] != 0) shared.holders.push_back(r);
  }
  shared.run_begin.push_back(static_cast<int>(shared.runs.size()));
  shared.holder_begin.push_back(static_cast<int>(shared.holders.size()));
}

void DispatchLayer::find_ways() {
  const std::size_t all = shared.experts.size();
  shared.way.resize(all * ranks);
  for (std::size_t s = 0; s < all; ++s) {
    const std::span<const int> holders_of = shared.holders_of(static_cast<int>(s));
    for (int r = 0; r < ranks; ++r) {
      const int to = destinations[static_cast<std::size_t>(r) * experts + shared.experts[s]];
      const auto index = std::lower_bound(holders_of.begin(), holders_of.end(), to) - holders_of.begin();
      const auto way = to == r                               ? SharedExperts::own
                       : node_of_rank[to] == node_of_rank[r] ? SharedExperts::inside
                                                             : SharedExperts::between;
      shared.way[r * all + s] = SharedExperts::ways * (shared.holder_begin[s] + static_cast<int>(index)) + way;
    }
  }
}

}  // namespace coterie
