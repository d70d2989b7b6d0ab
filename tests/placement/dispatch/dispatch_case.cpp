#include "tests/placement/dispatch/dispatch_case.hpp"

#include "placement/dispatch/nearest_holders.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <utility>

namespace coterie {
namespace {

/// The time of the slowest rank, counted row by row.
std::int64_t slowest(const DispatchCase& c, const DispatchPlan& plan) {
  std::vector<std::int64_t> times(c.layer.ranks, 0);
  std::set<std::pair<int, int>> at;
  for (const DispatchPart& part : plan.parts) {
    if (at.insert({part.expert, part.rank}).second) times[part.rank] += c.costs.expert;
    std::int64_t begin = 0;
    for (int r = 0; r < c.layer.ranks; ++r) {
      const std::int64_t end = begin + c.count(r, part.expert);
      const std::int64_t rows = std::max<std::int64_t>(0, std::min(end, part.to) - std::max(begin, part.from));
      const bool near = c.layer.node_of_rank[r] == c.layer.node_of_rank[part.rank];
      times[part.rank] += rows * (c.costs.row + (r == part.rank ? 0 : near ? c.costs.row_inside : c.costs.row_between));
      begin = end;
    }
  }
  for (const DispatchTransfer& t : plan.transfers) {
    const bool near = c.layer.node_of_rank[t.from] == c.layer.node_of_rank[t.to];
    for (const int rank : {t.from, t.to}) times[rank] += near ? c.costs.weights_inside : c.costs.weights_between;
  }
  return *std::max_element(times.begin(), times.end());
}

}  // namespace

DispatchLayer layer_of(int ranks, int experts, int ranks_per_node, int replicas) {
  std::vector<int> nodes(ranks), destinations(static_cast<std::size_t>(ranks) * experts);
  std::vector<std::uint8_t> held(static_cast<std::size_t>(experts) * ranks, 0);
  for (int r = 0; r < ranks; ++r) nodes[r] = r / ranks_per_node;
  for (int e = 0; e < experts; ++e) {
    const int owner = static_cast<int>(std::int64_t{e} * ranks / experts),
              second = e < replicas ? (owner + 1) % ranks : owner;
    held[static_cast<std::size_t>(e) * ranks + owner] = held[static_cast<std::size_t>(e) * ranks + second] = 1;
    for (int r = 0; r < ranks; ++r)
      destinations[static_cast<std::size_t>(r) * experts + e] = r % 2 == 0 ? owner : second;
  }
  return {nodes, destinations, held};
}

void fill_at_random(DispatchCase& c, SplitMix& random, const RandomCounts& of) {
  const int experts = c.layer.experts;
  const auto price = [&](int most) { return random.below(4) == 0 ? 0 : random.below(most); };
  c.costs = {1 + random.below(200), price(3000), price(100), 0, price(100'000), 0};
  c.costs.row_between = c.costs.row_inside * (1 + random.below(8));
  c.costs.weights_between = c.costs.weights_inside * (1 + random.below(8));
  c.counts.resize(static_cast<std::size_t>(c.layer.ranks) * experts);
  const int scale = of.least + random.below(500), hot = random.below(experts), hotter = 1 + random.below(of.hotter);
  for (std::size_t i = 0; i < c.counts.size(); ++i) {
    const bool is_hot = static_cast<int>(i) % experts == hot || random.below(20) == 0;
    c.counts[i] = random.below(of.empty) == 0 ? 0 : random.below(scale) * (is_hot ? hotter : 1);
  }
  if (random.below(of.cached) == 0) {
    c.cached.resize(c.counts.size());
    for (std::uint8_t& cached : c.cached) cached = random.below(5) == 0 ? 1 : 0;
  }
}

DispatchCase any_case(SplitMix& random) {
  constexpr std::array<int, 4> kMostRanks{8, 8, 63, 130};
  const int ranks = 2 + random.below(kMostRanks[random.below(kMostRanks.size())]), per_node = 1 + random.below(ranks);
  const int experts = random.below(8) == 0 ? 1 + random.below(5) : ranks * (1 + random.below(4)) - random.below(ranks),
            nodes = (ranks + per_node - 1) / per_node;
  std::vector<int> node_of_rank(ranks, 0), destinations(static_cast<std::size_t>(ranks) * experts);
  const int numbering = random.below(3);
  for (int r = 1; r < ranks; ++r) {
    node_of_rank[r] = numbering == 0   ? r / per_node
                      : numbering == 1 ? node_of_rank[r - 1] + (random.below(per_node) == 0 ? 1 : 0)
                                       : (r < nodes ? r : random.below(nodes));
  }
  std::vector<std::uint8_t> held(destinations.size(), 0);
  const int replicas = random.below(4) == 0 ? 1 + random.below(experts) : 0, lone = random.below(ranks);
  for (int e = 0; e < experts; ++e) {
    const int owner = static_cast<int>(std::int64_t{e} * ranks / experts);
    std::uint8_t* holds = held.data() + static_cast<std::size_t>(e) * ranks;
    holds[owner] = 1;
    for (int i = 0; e < replicas && i < 2; ++i) holds[random.below(ranks)] = 1;
    std::vector<int> holders;
    for (int r = 0; r < ranks; ++r) {
      if (holds[r] != 0) holders.push_back(r);
    }
    const std::vector<int> nearest = nearest_holders(holders, node_of_rank);
    for (int r = 0; r < ranks; ++r) {
      destinations[static_cast<std::size_t>(r) * experts + e] = e % 2 == 0 ? nearest[r] : holds[r] != 0 ? r : owner;
    }
  }
  DispatchCase c{{node_of_rank, destinations, held}, {}, {}, {}};
  fill_at_random(c, random, {1, 100, 2 + random.below(4), 4});
  constexpr DispatchCosts kGpu{150'000, 20'000'000, 70'000, 600'000, 200'000'000, 1'800'000'000};
  constexpr DispatchCosts kFast{900'000, 10'000'000, 40'000, 40'000, 18'000'000, 18'000'000};
  constexpr DispatchCosts kCpu{60'000'000, 500'000'000, 1'600'000, 7'000'000, 2'500'000'000, 10'500'000'000};
  const int prices = random.below(6);
  if (prices == 0) c.costs = kGpu;
  if (prices == 1) c.costs = kFast;
  if (prices == 2) c.costs = kCpu;
  if (prices == 3) c.costs = {1, 0, 0, 0, 0, 0};
  if (prices == 4) c.costs.weights_between = 1000 * (c.costs.weights_inside *= 1000);
  const int load = random.below(8);
  for (std::size_t i = 0; i < c.counts.size(); ++i) {
    const auto expert = static_cast<int>(i % experts);
    if (load == 0 && random.below(50) == 0) c.counts.assign(c.counts.size(), 0);
    if (load == 1) c.counts[i] = 1 + c.counts[i] % 100;
    if (load <= 2 && c.held(lone, expert)) c.counts[i] = 0;
    if (load == 3 && expert > 1) c.counts[i] = 0;
  }
  return c;
}

DispatchCase reordered(const DispatchCase& c, SplitMix& random) {
  const int ranks = c.layer.ranks, experts = c.layer.experts;
  std::vector<int> to(ranks);  // new numbers
  std::iota(to.begin(), to.end(), 0);
  for (int i = 0; i < 3 * ranks; ++i) {
    const int a = random.below(ranks), b = random.below(ranks);
    if (c.layer.node_of_rank[a] == c.layer.node_of_rank[b]) std::swap(to[a], to[b]);
  }
  std::vector<int> destinations(c.layer.destinations.size());
  std::vector<std::uint8_t> held(c.layer.held.size()), cached(c.cached.size());
  std::vector<std::int32_t> counts(c.counts.size());
  for (int r = 0; r < ranks; ++r) {
    for (int e = 0; e < experts; ++e) {
      const std::size_t from = static_cast<std::size_t>(r) * experts + e,
                        at = static_cast<std::size_t>(to[r]) * experts + e,
                        of_expert = static_cast<std::size_t>(e) * ranks;
      destinations[at] = to[c.layer.destinations[from]];
      counts[at] = c.counts[from];
      held[of_expert + to[r]] = c.layer.held[of_expert + r];
      if (!cached.empty()) cached[of_expert + to[r]] = c.cached[of_expert + r];
    }
  }
  return {{c.layer.node_of_rank, destinations, held}, c.costs, counts, cached};
}

void add_rows(DispatchCase& c, const Trace& trace, int layer, std::int64_t begin, std::int64_t end, int repeat) {
  c.counts.resize(static_cast<std::size_t>(c.layer.ranks) * trace.num_experts);
  for (std::int64_t t = begin; t < end; ++t) {
    for (int k = 0; k < trace.top_k; ++k) {
      const std::uint16_t e = trace.experts[static_cast<std::size_t>((t * trace.layers() + layer) * trace.top_k + k)];
      if (e == Trace::kNoExpert) continue;
      c.counts[static_cast<std::size_t>(t % c.layer.ranks) * trace.num_experts + e] += repeat;
    }
  }
}

DispatchPlan planned(const DispatchCase& c, const DispatchOptions& options) {
  DispatchPlanner planner(c.costs, options);
  return planner.plan(c.layer, c.counts, c.cached);
}

DispatchOptions llep_options(std::int64_t min_rows) {
  DispatchOptions options;
  options.policy = DispatchPolicy::llep;
  options.llep_min_rows = min_rows;
  return options;
}

void expect_valid(const DispatchCase& c, const DispatchPlan& plan) {
  std::vector<std::int64_t> done(c.layer.experts, 0);
  std::set<std::pair<int, int>> used, sent;
  const DispatchPart* last = nullptr;
  for (const DispatchPart& part : plan.parts) {
    EXPECT_LT(part.from, part.to);
    EXPECT_EQ(part.from, done[part.expert]);
    done[part.expert] = part.to;
    used.insert({part.expert, part.rank});
    if (last != nullptr) {
      EXPECT_LE(last->expert, part.expert);
      EXPECT_FALSE(last->expert == part.expert && last->rank == part.rank) << "two parts that are one";
    }
    last = &part;
  }
  for (int e = 0; e < c.layer.experts; ++e) EXPECT_EQ(done[e], c.rows(e)) << "expert " << e;
  for (const DispatchTransfer& t : plan.transfers) {
    EXPECT_TRUE(sent.insert({t.expert, t.to}).second) << "weights sent twice";
    EXPECT_TRUE(c.held(t.from, t.expert));
    EXPECT_FALSE(c.has(t.to, t.expert)) << "weights sent to who has them";
    EXPECT_TRUE(used.contains({t.expert, t.to})) << "weights sent for nothing";
  }
  for (const auto& [expert, rank] : used) {
    EXPECT_TRUE(c.has(rank, expert) || sent.contains({expert, rank})) << "rows without weights";
  }
  EXPECT_EQ(plan.after, slowest(c, plan));
}

}  // namespace coterie
