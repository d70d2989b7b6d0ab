#include "placement/dispatch/plan_dispatch.hpp"

#include "placement/dispatch/dispatch_rows.hpp"
#include "placement/dispatch/least_loaded.hpp"
#include "placement/dispatch/llep.hpp"
#include "placement/splitmix.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace coterie {

DispatchCosts dispatch_costs(const Machine& machine, std::int64_t hidden, std::int64_t intermediate,
                             std::int64_t weight_bytes, std::int64_t row_bytes) {
  constexpr double kPicoseconds = 1e12;
  const auto rounded = [](double seconds) { return std::llround(seconds * kPicoseconds); };
  const double flop = 6.0 * static_cast<double>(hidden) * static_cast<double>(intermediate);  // of a row
  const GemmRate &few = machine.gemm.front(), &many = machine.gemm.back();
  const double row = flop / many.rate;
  const double start = static_cast<double>(few.rows) * (flop / few.rate - row);
  const Link& inside = machine.inside_node;
  const Link& between = machine.between_nodes.value_or(inside);
  const auto way = [&](const Link& link, std::int64_t bytes) { return static_cast<double>(bytes) / link.bandwidth; };
  DispatchCosts costs;
  costs.row = std::max<std::int64_t>(1, rounded(row));
  costs.expert = std::max<std::int64_t>(0, rounded(start));
  costs.row_inside = rounded(way(inside, row_bytes));
  costs.row_between = rounded(way(between, row_bytes));
  costs.weights_inside = rounded(inside.latency + way(inside, weight_bytes));
  costs.weights_between = rounded(between.latency + way(between, weight_bytes));
  return costs;
}

DispatchLayer::DispatchLayer(std::vector<int> nodes_of, std::vector<int> to, std::vector<std::uint8_t> holds)
    : ranks(static_cast<int>(nodes_of.size())),
      nodes(nodes_of.empty() ? 0 : *std::max_element(nodes_of.begin(), nodes_of.end()) + 1),
      experts(ranks == 0 ? 0 : static_cast<int>(to.size()) / ranks),
      holders(static_cast<int>(std::count_if(holds.begin(), holds.end(), [](std::uint8_t h) { return h != 0; }))),
      node_of_rank(std::move(nodes_of)),
      destinations(std::move(to)),
      held(std::move(holds)),
      only_holder(experts, -1),
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
    if (count == 1) only_holder[e] = last;
    for (int r = 0; r < ranks; ++r) {
      const bool own = held[static_cast<std::size_t>(e) * ranks + r] != 0;
      const int d = destinations[static_cast<std::size_t>(r) * experts + e];
      if (d < 0 || d >= ranks || held[static_cast<std::size_t>(e) * ranks + d] == 0) {
        throw std::invalid_argument("DispatchLayer: rows of expert " + std::to_string(e) + " go to rank " +
                                    std::to_string(d) + ", which doesn't hold it");
      }
      if (own && d != r) detours[e] = 1;
    }
  }
}

struct DispatchPlanner::Scratch {
  DispatchLoads loads;
  LeastLoaded least_loaded;
  Llep llep;
  DispatchRows rows;
  std::vector<int> chunk_of_expert, next_chunk;  ///< (experts), (chunks): linked, -1 ends
  std::vector<int> from_place;                   ///< (nodes): before it all rows of the owner in hand are given
  Llep::Price llep_price;

  void reserve(const DispatchLayer& layer, DispatchPlan& plan);
  void write(DispatchPlan& plan);
  void write_split(int expert, DispatchPlan& plan);
  [[nodiscard]] bool follows_llep(const DispatchOptions& options);
  void write_llep(const DispatchOptions& options, DispatchPlan& plan);
};

void DispatchPlanner::Scratch::reserve(const DispatchLayer& layer, DispatchPlan& plan) {
  const std::size_t most = 2 * (static_cast<std::size_t>(layer.ranks) + layer.holders + most_copies(layer));
  rows.reserve(layer);
  chunk_of_expert.reserve(layer.experts);
  next_chunk.reserve(most);
  from_place.reserve(layer.nodes + 1);
  plan.parts.reserve(static_cast<std::size_t>(layer.experts) * (layer.ranks + layer.nodes) + 4 * most);
  plan.transfers.reserve(most);
}

/// The least-loaded solution, or none, as parts of all experts.
void DispatchPlanner::Scratch::write(DispatchPlan& plan) {
  const DispatchLayer& layer = loads.layer();
  const auto& chunks = least_loaded.chunks();
  chunk_of_expert.assign(layer.experts, -1);
  next_chunk.resize(chunks.size());
  for (std::size_t i = chunks.size(); i-- > 0;) {
    const int expert = loads.items()[chunks[i].item].expert;
    next_chunk[i] = std::exchange(chunk_of_expert[expert], static_cast<int>(i));
    if (chunks[i].weights_from >= 0) plan.transfers.push_back({expert, chunks[i].weights_from, chunks[i].rank});
  }
  for (int e = 0; e < layer.experts; ++e) {
    if (loads.rows(e) == 0) continue;
    if (!loads.shared(e) && chunk_of_expert[e] < 0) {
      plan.parts.push_back({e, layer.only_holder[e], 0, loads.rows(e)});
    } else {
      write_split(e, plan);
    }
  }
  for (const DispatchCopy& copy : least_loaded.copies())
    plan.transfers.push_back({copy.expert, copy.weights_from, copy.rank});
}

void DispatchPlanner::Scratch::write_split(int expert, DispatchPlan& plan) {
  const DispatchOrder& order = loads.order();
  const auto& chunks = least_loaded.chunks();
  const int* destinations = loads.shared(expert) ? loads.destinations(expert) : nullptr;
  rows.begin(loads, expert);
  for (int i = chunk_of_expert[expert]; i >= 0; i = next_chunk[i]) {
    rows.give(order.place_of_rank[chunks[i].rank], chunks[i].rank, chunks[i].own);
  }
  int last_owner = -1;
  for (int i = chunk_of_expert[expert]; i >= 0; i = next_chunk[i]) {
    const DispatchChunk& chunk = chunks[i];
    const int owner = loads.items()[chunk.item].rank;
    if (std::exchange(last_owner, owner) != owner) from_place.assign(order.node_begin.begin(), order.node_begin.end());
    for (int d = chunk.first_draw; d < chunk.first_draw + chunk.draws; ++d) {
      const DispatchDraw& draw = least_loaded.draws()[d];
      std::int64_t wanted = draw.rows;
      if (draw.node < 0) {
        rows.give(order.place_of_rank[owner], chunk.rank, wanted);
        continue;
      }
      for (int& p = from_place[draw.node]; wanted > 0; ++p) {
        if (order.ranks[p] == owner || (destinations != nullptr && destinations[p] != owner)) continue;
        const std::int64_t some = std::min(wanted, rows.left(p));
        rows.give(p, chunk.rank, some);
        wanted -= some;
        if (wanted == 0) break;
      }
    }
  }
  rows.write(loads, plan.parts);
}

Llep::Rows llep_rows(const DispatchOptions& options) {
  return options.policy == DispatchPolicy::least_loaded ? Llep::Rows::own_first : Llep::Rows::in_order;
}

/// What makes least_loaded never slower than LLEP, nor as fast with more transfers: the better plan of the two is
/// taken, LLEP's being made with the same settings and prices. For it ranks compute as many rows as LLEP says, but no
/// fewer of their own and their node's than by its order, so that none takes longer than by the policy llep.
bool DispatchPlanner::Scratch::follows_llep(const DispatchOptions& options) {
  if (options.policy == DispatchPolicy::plain || !llep.solve(loads, options)) return false;
  Llep::Price ours;
  if (options.policy == DispatchPolicy::least_loaded) {
    ours = {least_loaded.time(), least_loaded.transfers()};
    if (llep.least_price() >= ours) return false;
  }
  llep_price = llep.price(llep_rows(options));
  return options.policy == DispatchPolicy::llep || (llep_price < ours && llep.most_arrivals() <= options.most_arrivals);
}

void DispatchPlanner::Scratch::write_llep(const DispatchOptions& options, DispatchPlan& plan) {
  llep.write(llep_rows(options), rows, plan);
  plan.after = llep_price.time;
  plan.stayed = DispatchPlan::Stayed::spilled;
}

DispatchPlanner::DispatchPlanner(const DispatchCosts& costs, const DispatchOptions& options)
    : costs_(costs), options_(options), scratch_(std::make_unique<Scratch>()) {}
DispatchPlanner::~DispatchPlanner() = default;
DispatchPlanner::DispatchPlanner(DispatchPlanner&&) noexcept = default;
DispatchPlanner& DispatchPlanner::operator=(DispatchPlanner&&) noexcept = default;

const DispatchPlan& DispatchPlanner::plan(const DispatchLayer& layer, std::span<const std::int32_t> counts,
                                          std::span<const std::uint8_t> cached) {
  using Stayed = DispatchPlan::Stayed;
  Scratch& s = *scratch_;
  plan_.parts.clear();
  plan_.transfers.clear();
  s.reserve(layer, plan_);
  s.loads.measure(layer, costs_, counts, cached);
  plan_.before = plan_.after = *std::max_element(s.loads.times().begin(), s.loads.times().end());
  plan_.stayed = options_.policy == DispatchPolicy::llep ? Stayed::balanced : Stayed::policy;
  s.least_loaded.clear();
  if (options_.policy == DispatchPolicy::least_loaded) plan_.stayed = s.least_loaded.solve(s.loads, options_);
  const bool theirs = s.follows_llep(options_);
  if (theirs) {
    s.write_llep(options_, plan_);
  } else {
    s.write(plan_);
    if (options_.policy == DispatchPolicy::least_loaded) plan_.after = s.least_loaded.time();
  }
  return plan_;
}

bool spill_may_pay(const DispatchCosts& costs, std::int64_t rows, bool spare_weights, std::int64_t beyond) {
  if (rows < 1) return false;
  // The slowest rank saves no more than the work of the rows that it gives away, and of each expert that it is rid of;
  // where nobody else has an expert's weights, it sends them.
  const std::int64_t work = rows * (costs.row + std::max(costs.row_inside, costs.row_between));
  const std::int64_t weights = spare_weights ? 0 : std::min(costs.weights_inside, costs.weights_between);
  const std::int64_t of_expert = costs.expert - weights, experts = of_expert > 0 ? rows : 1;
  return work + experts * of_expert > beyond;
}

}  // namespace coterie
