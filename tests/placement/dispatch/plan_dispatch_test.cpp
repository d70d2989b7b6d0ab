#include "placement/dispatch/plan_dispatch.hpp"

#include "placement/splitmix.hpp"
#include "placement/trace/trace.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <new>
#include <numeric>
#include <set>
#include <string>

namespace {

std::atomic<std::int64_t> allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace coterie {
namespace {

struct Case {
  DispatchLayer layer;
  DispatchCosts costs;
  std::vector<std::int32_t> counts;  ///< (ranks, experts)
  std::vector<std::uint8_t> cached;  ///< (experts, ranks)

  std::int64_t count(int rank, int expert) const {
    return counts[static_cast<std::size_t>(rank) * layer.experts + expert];
  }
  std::int64_t rows(int expert) const {
    std::int64_t sum = 0;
    for (int r = 0; r < layer.ranks; ++r) sum += count(r, expert);
    return sum;
  }
  bool held(int rank, int expert) const {
    return layer.held[static_cast<std::size_t>(expert) * layer.ranks + rank] != 0;
  }
  bool has(int rank, int expert) const {
    return held(rank, expert) ||
           (!cached.empty() && cached[static_cast<std::size_t>(expert) * layer.ranks + rank] != 0);
  }
};

/// Experts dealt in order, `ranks_per_node` ranks a node; `replicas` of the experts are held twice.
DispatchLayer layer_of(int ranks, int experts, int ranks_per_node, int replicas = 0) {
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

Case random_case(SplitMix& random) {
  const int ranks = 1 + random.below(9), experts = ranks * (1 + random.below(4));
  const int per_node = 1 + random.below(ranks);
  Case c{layer_of(ranks, experts, per_node, random.below(3) == 0 ? random.below(experts) : 0), {}, {}, {}};
  const auto price = [&](int most) { return random.below(4) == 0 ? 0 : random.below(most); };
  c.costs = {1 + random.below(200), price(3000), price(100), 0, price(100'000), 0};
  c.costs.row_between = c.costs.row_inside * (1 + random.below(8));
  c.costs.weights_between = c.costs.weights_inside * (1 + random.below(8));
  c.counts.resize(static_cast<std::size_t>(ranks) * experts);
  const int scale = 1 + random.below(500), hot = random.below(experts), hotter = 1 + random.below(100);
  for (std::size_t i = 0; i < c.counts.size(); ++i) {
    const bool is_hot = static_cast<int>(i) % experts == hot || random.below(20) == 0;
    c.counts[i] = random.below(3) == 0 ? 0 : random.below(scale) * (is_hot ? hotter : 1);
  }
  if (random.below(2) == 0) {
    c.cached.resize(c.counts.size());
    for (std::uint8_t& cached : c.cached) cached = random.below(5) == 0 ? 1 : 0;
  }
  return c;
}

/// The time of the slowest rank, counted row by row.
std::int64_t slowest(const Case& c, const DispatchPlan& plan) {
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

void expect_valid(const Case& c, const DispatchPlan& plan) {
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

DispatchPlan planned(const Case& c, const DispatchOptions& options = {}) {
  DispatchPlanner planner(c.costs, options);
  return planner.plan(c.layer, c.counts, c.cached);
}

DispatchOptions llep_options(std::int64_t min_rows = 1024) {
  DispatchOptions options;
  options.policy = DispatchPolicy::llep;
  options.llep_min_rows = min_rows;
  return options;
}

TEST(PlanDispatch, EveryRowIsComputedOnceWhereTheWeightsAre) {
  const std::uint64_t seed = 11;
  SplitMix random(seed);
  DispatchPlanner again({1, 0, 0, 0, 0, 0}, {});
  int spilled = 0;
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    const Case c = random_case(random);
    DispatchOptions options;
    options.policy = DispatchPolicy::plain;
    const DispatchPlan plain = planned(c, options);
    expect_valid(c, plain);
    EXPECT_TRUE(plain.transfers.empty());
    EXPECT_EQ(plain.after, plain.before);

    expect_valid(c, planned(c, llep_options(random.below(50))));

    options.policy = DispatchPolicy::least_loaded;
    options.most_arrivals = random.below(3) == 0 ? random.below(3) : 1000;
    const DispatchPlan plan = planned(c, options);
    expect_valid(c, plan);
    EXPECT_EQ(plan.before, plain.after);
    EXPECT_LE(plan.after, plan.before);
    std::map<int, int> arrivals;
    for (const DispatchTransfer& t : plan.transfers) EXPECT_LE(++arrivals[t.to], options.most_arrivals);
    spilled += plan.stayed == DispatchPlan::Stayed::spilled ? 1 : 0;
    EXPECT_EQ(plan.stayed == DispatchPlan::Stayed::spilled, plan.after < plan.before);
    if (HasFailure()) return;
  }
  EXPECT_GT(spilled, 500);
}

TEST(PlanDispatch, APlannerThatIsUsedAgainSaysTheSame) {
  SplitMix random(12);
  const Case a = random_case(random), b = random_case(random);
  DispatchPlanner planner(a.costs, {});
  const DispatchPlan first = planner.plan(a.layer, a.counts, a.cached);
  static_cast<void>(planner.plan(b.layer, b.counts, b.cached));
  const DispatchPlan& second = planner.plan(a.layer, a.counts, a.cached);
  EXPECT_EQ(first.parts, second.parts);
  EXPECT_EQ(first.transfers, second.transfers);
  EXPECT_EQ(first.after, second.after);
}

TEST(PlanDispatch, TheOrderOfRanksInsideANodeDoesNotMatter) {
  const std::uint64_t seed = 13;
  SplitMix random(seed);
  for (int round = 0; round < 500; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    const Case c = random_case(random);
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
                          at = static_cast<std::size_t>(to[r]) * experts + e;
        destinations[at] = to[c.layer.destinations[from]];
        counts[at] = c.counts[from];
        held[static_cast<std::size_t>(e) * ranks + to[r]] = c.layer.held[static_cast<std::size_t>(e) * ranks + r];
        if (!cached.empty())
          cached[static_cast<std::size_t>(e) * ranks + to[r]] = c.cached[static_cast<std::size_t>(e) * ranks + r];
      }
    }
    const Case moved{DispatchLayer(c.layer.node_of_rank, destinations, held), c.costs, counts, cached};
    const DispatchPlan a = planned(c), b = planned(moved);
    EXPECT_EQ(a.before, b.before);
    EXPECT_EQ(a.after, b.after);
    EXPECT_EQ(a.transfers.size(), b.transfers.size());
  }
}

TEST(PlanDispatch, CountsAreLeftOutOnlyWhereNoPlanSavesMore) {
  const std::uint64_t seed = 23;
  SplitMix random(seed);
  int left_out = 0, could_save = 0;
  for (int round = 0; round < 4000; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    Case c = random_case(random);
    const int fewer = 1 << random.below(10), one = random.below(2) == 0 ? random.below(c.layer.experts) : -1;
    for (int r = 0; r < c.layer.ranks; ++r) {
      for (int e = 0; e < c.layer.experts; ++e) {
        std::int32_t& count = c.counts[static_cast<std::size_t>(r) * c.layer.experts + e];
        count = one >= 0 && e != one ? 0 : count / fewer;
      }
    }
    const std::int64_t rows = std::accumulate(c.counts.begin(), c.counts.end(), std::int64_t{0});
    const bool spare = c.layer.holders > c.layer.experts ||
                       std::any_of(c.cached.begin(), c.cached.end(), [](std::uint8_t cached) { return cached != 0; });
    const DispatchPlan plan = planned(c);
    const std::int64_t saved = plan.before - plan.after;
    const std::int64_t beyond = random.below(2) == 0 ? 0 : random.below(200'000);
    if (spill_may_pay(c.costs, rows, spare, beyond)) {
      could_save += saved > beyond ? 1 : 0;
    } else {
      EXPECT_LE(saved, beyond) << rows << " rows";
      ++left_out;
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(left_out, 400);
  EXPECT_GT(could_save, 400);
}

TEST(PlanDispatch, WhereWeightsTravelFewRowsAreNotWorthTheirCounts) {
  const DispatchCosts costs{100, 20, 0, 0, 1000, 5000};
  EXPECT_FALSE(spill_may_pay(costs, 9, false)) << "900 and 20 for an expert, against 1,000 for its weights";
  EXPECT_TRUE(spill_may_pay(costs, 10, false));
  EXPECT_FALSE(spill_may_pay(costs, 10, false, 20));
  EXPECT_TRUE(spill_may_pay(costs, 2, true)) << "someone else may have the weights";
  EXPECT_FALSE(spill_may_pay(costs, 2, true, 240)) << "two rows of two experts";
}

Case even_case(int ranks, int experts, std::int32_t rows_each) {
  return {layer_of(ranks, experts, std::max(1, ranks / 2)),
          {100, 0, 0, 0, 1000, 1000},
          std::vector<std::int32_t>(static_cast<std::size_t>(ranks) * experts, rows_each),
          {}};
}

TEST(PlanDispatch, NothingIsSpilledWithoutNeed) {
  for (const std::int32_t rows : {0, 1, 100}) {
    const DispatchPlan plan = planned(even_case(8, 16, rows));
    EXPECT_EQ(plan.stayed, DispatchPlan::Stayed::balanced);
    EXPECT_TRUE(plan.transfers.empty());
    EXPECT_EQ(plan.parts.size(), rows == 0 ? 0U : 16U);
  }
  Case alone = even_case(1, 4, 10);
  expect_valid(alone, planned(alone));
  Case dear = even_case(4, 4, 10);
  for (int r = 0; r < 4; ++r) dear.counts[static_cast<std::size_t>(r) * 4] = 100;
  dear.costs.weights_inside = dear.costs.weights_between = 1'000'000;
  EXPECT_EQ(planned(dear).stayed, DispatchPlan::Stayed::not_worth_it);
  EXPECT_FALSE(spill_may_pay(dear.costs, 520, false));
  dear.cached.assign(16, 0);
  dear.cached[1] = 1;
  const DispatchPlan plan = planned(dear);
  EXPECT_EQ(plan.stayed, DispatchPlan::Stayed::spilled);
  EXPECT_TRUE(plan.transfers.empty());
  EXPECT_EQ(plan.after, 22'000) << "rank 1, which has the weights, takes half of what is too much";
}

TEST(PlanDispatch, AnExpertCanGoToEveryRank) {
  Case c = even_case(16, 16, 0);
  for (int r = 0; r < 16; ++r) c.counts[static_cast<std::size_t>(r) * 16] = 1000;
  const DispatchPlan plan = planned(c);
  expect_valid(c, plan);
  EXPECT_EQ(plan.transfers.size(), 15U);
  EXPECT_LE(plan.after, 1'600'000 / 16 + 15'000 + 2000);
}

TEST(PlanDispatch, OneIdleRankHelpsAllOthers) {
  Case c = even_case(8, 8, 100);
  for (int r = 0; r < 8; ++r) c.counts[static_cast<std::size_t>(r) * 8 + 7] = 0;
  const DispatchPlan plan = planned(c);
  expect_valid(c, plan);
  EXPECT_EQ(plan.transfers.size(), 7U);
  for (const DispatchTransfer& t : plan.transfers) EXPECT_EQ(t.to, 7);
  EXPECT_LE(plan.after, 80'000 * 7 / 8 + 7 * 1000 + 1000);
}

TEST(PlanDispatch, RowsThatLieOnAHelperAreComputedThere) {
  Case c = even_case(4, 4, 0);
  c.costs.row_inside = 10;
  c.costs.row_between = 50;
  for (int r = 0; r < 4; ++r) c.counts[static_cast<std::size_t>(r) * 4] = 1000;
  const DispatchPlan plan = planned(c);
  expect_valid(c, plan);
  ASSERT_EQ(plan.transfers.size(), 3U);
  std::int64_t stay = 0;
  for (const DispatchPart& part : plan.parts) {
    const std::int64_t begin = 1000 * part.rank;
    stay += std::max<std::int64_t>(0, std::min(part.to, begin + 1000) - std::max(part.from, begin));
  }
  EXPECT_GE(stay, 3900);
}

TEST(PlanDispatch, LlepIsAsThePaperStatesIt) {
  // One rank has an expert of 12,000 rows, the mean is 4,000: it keeps its capacity, two chunks of it go to the least
  // loaded, which is then full.
  Case c = even_case(4, 4, 0);
  const std::array<std::int32_t, 4> rows{12'000, 1000, 2000, 1000};
  for (int e = 0; e < 4; ++e) c.counts[static_cast<std::size_t>(e) * 4 + e] = rows[e];
  const DispatchPlan plan = planned(c, llep_options());
  EXPECT_EQ(plan.parts, (std::vector<DispatchPart>{{0, 0, 0, 4000},
                                                   {0, 1, 4000, 7000},
                                                   {0, 3, 7000, 10'000},
                                                   {0, 2, 10'000, 12'000},
                                                   {1, 1, 0, 1000},
                                                   {2, 2, 0, 2000},
                                                   {3, 3, 0, 1000}}));
  EXPECT_EQ(plan.transfers, (std::vector<DispatchTransfer>{{0, 0, 1}, {0, 0, 3}, {0, 0, 2}}));
  // A chunk below the smallest is passed over, and the least loaded takes all that nobody fits.
  const DispatchPlan coarse = planned(c, llep_options(3500));
  EXPECT_EQ(coarse.parts[1], (DispatchPart{0, 1, 4000, 12'000}));
  DispatchOptions high = llep_options();
  high.llep_threshold = 3.1;
  EXPECT_EQ(planned(c, high).stayed, DispatchPlan::Stayed::balanced);
}

/// The best that any assignment of rows reaches, tried one by one. Prices of rows' ways must be 0.
std::int64_t optimum(const Case& c) {
  const int ranks = c.layer.ranks, experts = c.layer.experts;
  std::int64_t best = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> times(ranks, 0);
  const auto place = [&](auto&& self, int expert, int rank, std::int64_t left) -> void {
    if (*std::max_element(times.begin(), times.end()) >= best) return;
    if (rank == ranks) {
      if (left > 0) return;
      if (expert + 1 < experts) return self(self, expert + 1, 0, c.rows(expert + 1));
      best = *std::max_element(times.begin(), times.end());
      return;
    }
    for (std::int64_t rows = rank + 1 == ranks ? left : 0; rows <= left; ++rows) {
      const int owner = c.layer.only_holder[expert];
      const bool moved = rows > 0 && !c.has(rank, expert);
      const std::int64_t way = !moved                                                      ? 0
                               : c.layer.node_of_rank[rank] == c.layer.node_of_rank[owner] ? c.costs.weights_inside
                                                                                           : c.costs.weights_between;
      const std::int64_t own = rows == 0 ? 0 : c.costs.expert + rows * c.costs.row + way;
      times[rank] += own;
      times[owner] += way;
      self(self, expert, rank + 1, left - rows);
      times[rank] -= own;
      times[owner] -= way;
    }
  };
  place(place, 0, 0, c.rows(0));
  return best;
}

TEST(PlanDispatch, IsNearTheBestThereIs) {
  const std::uint64_t seed = 17;
  SplitMix random(seed);
  double sum = 0;
  int above = 0;
  constexpr int kRounds = 300;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    const int ranks = 2 + random.below(2), experts = ranks == 2 ? 2 + 2 * random.below(2) : 3;
    Case c{layer_of(ranks, experts, 1 + random.below(ranks)),
           {1000, random.below(500), 0, 0, random.below(4000), 0},
           {},
           {}};
    c.costs.weights_between = c.costs.weights_inside * 2;
    c.counts.assign(static_cast<std::size_t>(ranks) * experts, 0);
    const int heaviest = random.below(experts);
    for (int e = 0; e < experts; ++e) c.counts[e] = random.below(e == heaviest ? 24 : 10);
    const DispatchPlan plan = planned(c);
    const auto best = static_cast<double>(optimum(c));
    const double ratio = best == 0 ? 1 : static_cast<double>(plan.after) / best;
    sum += ratio;
    above += ratio > 1.05 ? 1 : 0;
    EXPECT_LE(ratio, 1.1) << plan.before << " -> " << plan.after << ", best " << best;
  }
  EXPECT_LE(sum / kRounds, 1.005);
  EXPECT_LE(above, kRounds / 50) << "where it would pay that a helper passes an expert of its own on";
}

/// `share` of the rows in `hot` experts, the rest in the others; the same from every rank.
Case paper_case(int ranks, int experts, int rows_a_rank, double share, int hot, const DispatchCosts& costs) {
  Case c{layer_of(ranks, experts, 8), costs, std::vector<std::int32_t>(static_cast<std::size_t>(ranks) * experts), {}};
  for (int r = 0; r < ranks; ++r) {
    for (int e = 0; e < experts; ++e) {
      const double rows = e < hot ? rows_a_rank * share / hot : rows_a_rank * (1 - share) / (experts - hot);
      c.counts[static_cast<std::size_t>(r) * experts + e] = static_cast<std::int32_t>(rows);
    }
  }
  return c;
}

// Picoseconds of one H200 in a node with NVLink, several nodes with 50 GB/s a rank, at DeepSeek-V3's shape.
constexpr DispatchCosts kCosts{150'000, 20'000'000, 70'000, 600'000, 200'000'000, 1'800'000'000};

void expect_no_worse_than_llep(const Case& c) {
  const DispatchPlan ours = planned(c), theirs = planned(c, llep_options());
  expect_valid(c, ours);
  EXPECT_LE(ours.after, theirs.after);
  EXPECT_TRUE(ours.after < theirs.after || ours.transfers.size() <= theirs.transfers.size());
}

TEST(PlanDispatch, IsNeverSlowerThanLlepOnItsOwnWorkloads) {
  for (const int ranks : {8, 16, 64}) {
    for (const int experts : {128, 256, 384}) {
      for (const int hot : {1, 4, 16}) {
        for (const double share : {0.05, 0.3, 0.5, 0.8, 0.95}) {
          for (const std::int64_t weights : {0, 1, 4}) {
            SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(experts) + " experts, " +
                         std::to_string(share) + " in " + std::to_string(hot));
            DispatchCosts costs = kCosts;
            costs.weights_inside *= weights;
            costs.weights_between *= weights;
            expect_no_worse_than_llep(paper_case(ranks, experts, 16'384 * 8, share, hot, costs));
          }
        }
      }
    }
  }
}

TEST(PlanDispatch, IsNeverSlowerThanLlepOnRealTraces) {
  for (const char* name : {"olmoe-1b-7b.decode", "granite-3.0-3b-a800m.decode"}) {
    const Trace trace =
        read_trace(std::filesystem::path(COTERIE_FIXTURES) / "traces" / (std::string(name) + ".safetensors"));
    const int layers = trace.layers(), ranks = 8;
    for (const std::int64_t batch : {256, 2048}) {
      for (int layer = 0; layer < layers; layer += 5) {
        Case c{layer_of(ranks, trace.num_experts, 4), kCosts, {}, {}};
        c.counts.assign(static_cast<std::size_t>(ranks) * trace.num_experts, 0);
        const std::int64_t repeat = 64;  // of each token: what a larger batch of the same kind of text asks for
        for (std::int64_t t = 0; t < std::min(batch, trace.tokens()); ++t) {
          for (int k = 0; k < trace.top_k; ++k) {
            const std::uint16_t e = trace.experts[static_cast<std::size_t>((t * layers + layer) * trace.top_k + k)];
            if (e != Trace::kNoExpert) c.counts[static_cast<std::size_t>(t % ranks) * trace.num_experts + e] += repeat;
          }
        }
        SCOPED_TRACE(std::string(name) + ", layer " + std::to_string(layer) + ", " + std::to_string(batch) + " tokens");
        expect_no_worse_than_llep(c);
      }
    }
  }
}

TEST(PlanDispatch, IsNoSlowerThanLlepWhereRowsAndWeightsTravelFast) {
  const std::uint64_t seed = 29;
  SplitMix random(seed);
  for (int round = 0; round < 300; ++round) {
    const int ranks = 2 + 2 * random.below(4), experts = ranks * (1 + random.below(8));
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    Case c{layer_of(ranks, experts, ranks), {900'000, 10'000'000, 40'000, 40'000, 18'000'000, 18'000'000}, {}, {}};
    for (int i = 0; i < ranks * experts; ++i)
      c.counts.push_back(random.below(100) * (random.below(experts) == 0 ? 200 : 1));
    DispatchOptions llep = llep_options(random.below(2) == 0 ? 1 : 1024), ours;
    ours.llep_min_rows = llep.llep_min_rows;
    const DispatchPlan plan = planned(c, ours);
    expect_valid(c, plan);
    EXPECT_LE(plan.after, planned(c, llep).after);
  }
}

TEST(PlanDispatch, AllocatesOnlyAtTheFirstCall) {
  SplitMix random(19);
  for (const int ranks : {4, 16, 64}) {
    for (const std::int64_t way : {0, 10}) {  // of rows beside 100 for their products
      Case c = even_case(ranks, 4 * ranks, 0);
      c.costs.row_inside = way;
      c.costs.row_between = 8 * way;
      DispatchPlanner planner(c.costs, {});
      const auto fill = [&](int few) {
        for (std::int32_t& count : c.counts) count = random.below(1000) * (random.below(few) == 0 ? 50 : 1);
      };
      fill(30);
      static_cast<void>(planner.plan(c.layer, c.counts));
      for (int round = 0; round < 60; ++round) {
        fill(2 + round);
        const std::int64_t before = allocations;
        static_cast<void>(planner.plan(c.layer, c.counts));
        EXPECT_EQ(allocations, before) << ranks << " ranks, round " << round;
      }
    }
  }
}

TEST(PlanDispatch, CostsComeFromWhatWasMeasured) {
  Machine machine;
  machine.inside_node = {1e-6, 4e11};
  machine.between_nodes = Link{2e-6, 5e10};
  machine.gemm = {{16, 1e13}, {4096, 5e14}};
  const DispatchCosts costs = dispatch_costs(machine, 1000, 500, 4'000'000, 4000);
  EXPECT_EQ(costs.row, 6000);             // 3e6 FLOP at 5e14 a second
  EXPECT_EQ(costs.expert, 16 * 294'000);  // what 16 rows take beyond that
  EXPECT_EQ(costs.row_inside, 10'000);    // 4,000 bytes at 4e11
  EXPECT_EQ(costs.row_between, 80'000);
  EXPECT_EQ(costs.weights_inside, 11'000'000);
  EXPECT_EQ(costs.weights_between, 82'000'000);
}

}  // namespace
}  // namespace coterie
