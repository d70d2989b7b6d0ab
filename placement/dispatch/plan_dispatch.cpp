#include "placement/dispatch/plan_dispatch.hpp"

#include "placement/dispatch/dispatch_rows.hpp"
#include "placement/dispatch/least_loaded.hpp"
#include "placement/dispatch/llep.hpp"

#include <algorithm>
#include <cmath>
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

struct DispatchPlanner::Scratch {
  DispatchLoads loads;
  LeastLoaded least_loaded;
  Llep llep;
  DispatchRows rows;
  std::vector<int> chunk_of_expert, next_chunk;  ///< (experts), (chunks): linked, -1 ends
  std::vector<int> from_place;                   ///< (nodes): before it all rows of the owner in hand are given

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
    if (chunk_of_expert[e] < 0) {
      rows.write_undivided(loads, e, plan.parts);
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
  int owner = -1, in_turn = 0;
  const auto give_of_node = [&](int node, int rank, std::int64_t wanted) {  // returns what it doesn't have
    for (int& p = from_place[node]; p < order.node_begin[node + 1]; ++p) {
      if (order.ranks[p] == owner || (destinations != nullptr && destinations[p] != owner)) continue;
      const std::int64_t some = std::min(wanted, rows.left(p));
      rows.give(p, rank, some);
      wanted -= some;
      if (wanted == 0) break;
    }
    return wanted;
  };
  for (int i = chunk_of_expert[expert]; i >= 0; i = next_chunk[i]) {
    const DispatchChunk& chunk = chunks[i];
    const int of = loads.items()[chunk.item].rank;
    if (std::exchange(owner, of) != of) {
      from_place.assign(order.node_begin.begin(), order.node_begin.end());
      in_turn = 0;
    }
    const int owners_node = loads.layer().node_of_rank[owner];
    for (const DispatchDraw& draw : least_loaded.draws().subspan(chunk.first_draw, chunk.draws)) {
      if (draw.node == DispatchDraw::kOwner) {
        rows.give(order.place_of_rank[owner], chunk.rank, draw.rows);
      } else if (draw.node == DispatchDraw::kInTurn) {
        for (std::int64_t wanted = draw.rows; wanted > 0; in_turn += wanted > 0 ? 1 : 0) {
          if (in_turn != owners_node) wanted = give_of_node(in_turn, chunk.rank, wanted);
        }
      } else {
        give_of_node(draw.node, chunk.rank, draw.rows);
      }
    }
  }
  rows.write(loads, plan.parts);
}

Llep::Rows llep_rows(const DispatchOptions& options) {
  return options.policy == DispatchPolicy::least_loaded ? Llep::Rows::own_first : Llep::Rows::in_order;
}

/// Whether LLEP's plan is taken, where it spills. That makes least_loaded never slower than LLEP, nor as fast with more
/// transfers: the better plan of the two is taken, LLEP's being made with the same settings and prices. For it ranks
/// compute as many rows as LLEP says, but no fewer of their own and their node's than by its order, so that none takes
/// longer than by the policy llep.
bool DispatchPlanner::Scratch::follows_llep(const DispatchOptions& options) {
  if (options.policy == DispatchPolicy::llep) return true;
  const Llep::Price ours{least_loaded.time(), least_loaded.transfers()};
  return llep.least_price() < ours && llep.price(llep_rows(options)) < ours &&
         llep.most_arrivals() <= options.most_arrivals;
}

void DispatchPlanner::Scratch::write_llep(const DispatchOptions& options, DispatchPlan& plan) {
  llep.write(llep_rows(options), rows, plan);
  plan.after = llep.price(llep_rows(options)).time;
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
  const bool llep_spills = options_.policy != DispatchPolicy::plain && s.llep.solve(s.loads, options_);
  if (options_.policy == DispatchPolicy::least_loaded) {
    plan_.stayed = s.least_loaded.solve(s.loads, options_, llep_spills ? &s.llep : nullptr);
  }
  if (llep_spills && s.follows_llep(options_)) {
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
