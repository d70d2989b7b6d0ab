#include "tests/bench/random_dispatch.hpp"

#include "placement/dispatch/nearest_holders.hpp"
#include "placement/splitmix.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

namespace coterie {
namespace {

constexpr int kRanks = 64, kExperts = 256;

std::vector<int> random_nodes(SplitMix& random, std::string& name) {
  constexpr std::array<int, 8> kSizes{1, 2, 4, 8, 8, 16, 64, 0};
  const int size = kSizes[random.below(kSizes.size())];
  std::vector<int> nodes(kRanks, 0);
  for (int r = 1; r < kRanks; ++r) {
    nodes[r] = size > 0 ? r / size : nodes[r - 1] + (random.below(6) == 0 ? 1 : 0);
  }
  name += size > 0 ? "nodes of " + std::to_string(size) : "uneven nodes";
  return nodes;
}

void shuffle(std::vector<int>& of, SplitMix& random) {
  for (std::size_t i = of.size(); i > 1; --i) std::swap(of[i - 1], of[random.below(static_cast<int>(i))]);
}

DispatchCosts random_costs(SplitMix& random, std::string& name) {
  const auto up_to = [&](double most) {
    return random.below(5) == 0 ? 0 : static_cast<std::int64_t>(std::exp(random.unit() * std::log(most)));
  };
  switch (random.below(6)) {
    case 0:
      name += ", H200";
      return {150'000, 20'000'000, 70'000, 600'000, 225'000'000, 1'770'000'000};
    case 1:
      name += ", slow rows";
      return {900'000, 10'000'000, 40'000, 40'000, 18'000'000, 18'000'000};
    case 2:
      name += ", CPU";
      return {60'000'000, 500'000'000, 1'600'000, 7'000'000, 2'500'000'000, 10'500'000'000};
    case 3:
      name += ", free ways";
      return {1, 0, 0, 0, 0, 0};
    case 4:
      name += ", free weights";
      return {150'000, 1'000'000, 70'000, 600'000, 1, 1};
    default:
      break;
  }
  DispatchCosts costs{1 + up_to(1e6), up_to(1e8), up_to(1e6), 0, up_to(1e9), 0};
  costs.row_between = costs.row_inside * (1 + random.below(10));
  costs.weights_between = costs.weights_inside * (1 + random.below(10));
  name += ", any prices";
  return costs;
}

}  // namespace

RandomSetting random_setting(std::uint64_t seed) {
  SplitMix random(seed);
  std::string name;
  std::vector<int> nodes = random_nodes(random, name), owners(kExperts);
  for (int e = 0; e < kExperts; ++e) owners[e] = e * kRanks / kExperts;
  if (random.below(3) == 0) shuffle(owners, random);
  std::vector<int> destinations(kRanks * kExperts);
  std::vector<std::uint8_t> held(destinations.size(), 0), cached;
  constexpr std::array<int, 8> kReplicated{0, 0, 0, 0, 16, 32, 64, 256};
  const int replicated = kReplicated[random.below(kReplicated.size())], more = 1 + random.below(3);
  const bool nearest = random.below(2) == 0;
  for (int e = 0; e < kExperts; ++e) {
    std::vector<int> holders{owners[e]};
    for (int i = 0; e < replicated && i < more; ++i) holders.push_back(random.below(kRanks));
    for (const int rank : holders) held[e * kRanks + rank] = 1;
    const std::vector<int> in_turn = holders;
    std::sort(holders.begin(), holders.end());
    holders.erase(std::unique(holders.begin(), holders.end()), holders.end());
    const std::vector<int> to = nearest_holders(holders, nodes);
    for (int r = 0; r < kRanks; ++r) {
      destinations[r * kExperts + e] = nearest ? to[r] : in_turn[r % in_turn.size()];
    }
  }
  if (replicated > 0)
    name += ", " + std::to_string(replicated) + " held " + std::to_string(1 + more) + " times" +
            (nearest ? "" : ", rows in turn");
  const int caches = random.below(6);
  if (caches >= 4) {
    cached.resize(held.size());
    for (std::size_t i = 0; i < cached.size(); ++i) {
      cached[i] = held[i] == 0 && random.below(caches == 4 ? 32 : 3) == 0 ? 1 : 0;
    }
    name += caches == 4 ? ", some cached" : ", many cached";
  }
  const DispatchCosts costs = random_costs(random, name);
  return {std::move(name), {std::move(nodes), std::move(destinations), std::move(held)}, costs, std::move(cached)};
}

const char* random_load(std::uint64_t seed, const DispatchLayer& layer, std::vector<std::int32_t>& counts) {
  SplitMix random(seed);
  std::vector<double> weights(kExperts, 1), source(kRanks, 1);
  const auto up_to = [&](double most) { return std::exp(static_cast<double>(random.unit()) * std::log(most)); };
  std::vector<int> order(kExperts);
  std::iota(order.begin(), order.end(), 0);
  shuffle(order, random);
  const char* kind = "";
  const int which = random.below(9);
  if (which <= 1) {
    kind = which == 0 ? "hot experts" : "hot ranks";
    const auto hot = static_cast<int>(up_to(which == 0 ? kExperts : kRanks));
    const double most = up_to(300), spread = up_to(10);
    std::vector<double> heat(kRanks, 1);
    for (int i = 0; i < hot; ++i) {
      (which == 0 ? weights[order[i]] : heat[random.below(kRanks)]) = 1 + most / (1 + (spread - 1) * random.unit());
    }
    for (int e = 0; which == 1 && e < kExperts; ++e) weights[e] = heat[layer.destinations[e]];
  } else if (which <= 3) {
    kind = which == 2 ? "power" : "power, other experts from every rank";
    const double power = 2 * random.unit();
    for (int e = 0; e < kExperts; ++e) weights[order[e]] = std::pow(1 + e, -power);
  } else if (which == 4) {
    kind = "one hot expert a rank";
    const double most = up_to(300);
    std::vector<std::uint8_t> has(kRanks, 0);
    for (const int e : order) {
      if (std::exchange(has[layer.destinations[e]], 1) == 0) weights[e] = 1 + most * random.unit();
    }
  } else if (which == 5) {
    kind = "each count by itself";
  } else if (which == 6) {
    kind = "all but some idle";
    const int some = 1 + random.below(kRanks - 1);
    for (int e = 0; e < kExperts; ++e) weights[e] = layer.destinations[e] < some ? random.unit() : 0;
  } else if (which == 7) {
    kind = "ever heavier ranks";
    const double heaviest = up_to(50);
    for (int e = 0; e < kExperts; ++e) weights[e] = 1 + heaviest * layer.destinations[e] / kRanks;
  } else {
    kind = "all alike";
  }
  if (random.below(3) == 0) {
    for (double& of : source) of = random.below(4) == 0 ? 0 : up_to(30);
  }
  const double scale = up_to(4096), noise = random.below(3) == 0 ? 0 : random.below(2) == 0 ? 0.1 : 1;
  const int empty = random.below(3) == 0 ? 1 + random.below(20) : 0, hotter = which == 5 ? 1 + random.below(100) : 1;
  const double mean = std::accumulate(weights.begin(), weights.end(), 0.0) / kExperts;
  counts.resize(kRanks * kExperts);
  for (int r = 0; r < kRanks; ++r) {
    const int turn = which == 3 ? random.below(kExperts) : 0;
    for (int e = 0; e < kExperts; ++e) {
      const double weight = weights[(e + turn) % kExperts] / std::max(mean, 1e-9) * source[r];
      double rows = scale * weight * (1 + noise * (random.unit() - 0.5));
      if (hotter > 1) rows = scale * random.unit() * (random.below(20) == 0 ? hotter : 1);
      if (empty > 0 && random.below(20) < empty) rows = 0;
      counts[r * kExperts + e] = static_cast<std::int32_t>(std::min(rows + random.unit(), 1e6));
    }
  }
  return kind;
}

}  // namespace coterie
