#include "placement/bound/traffic_bound.hpp"

#include "placement/bound/levels.hpp"
#include "placement/parallel.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <numeric>

namespace coterie {
namespace {

constexpr int kMostMembers = 16;
constexpr double kTrust = 0.85;  // in the placement that the first choices are made by
constexpr double kCopies = 2;    // times what S says of first copies is shared where there are further ones

int most_choices(const Problem& problem) {
  int most = 1;
  for (const WeightedTrace& part : problem.traces)
    most = std::max(most, problem.top > 0 ? std::min(problem.top, part.trace->top_k) : part.trace->top_k);
  return most;
}

std::int64_t last_token(const WeightedTrace& part) {
  const std::int64_t all = part.trace->tokens();
  return part.count < 0 ? all : std::min(all, part.first + part.count);
}

// The token's experts at a layer, in the order of its choices.
void load_experts(const Problem& problem, const Trace& trace, std::int64_t token, int layer,
                  std::vector<int>& experts) {
  const int top = problem.top > 0 ? std::min(problem.top, trace.top_k) : trace.top_k;
  const std::size_t begin = (static_cast<std::size_t>(token) * trace.layers() + layer) * trace.top_k;
  experts.clear();
  for (int c = 0; c < top; ++c)
    if (trace.experts[begin + c] != Trace::kNoExpert) experts.push_back(trace.experts[begin + c]);
}

// A number in [0, 1) that depends on all of these alone (splitmix64).
double draw(std::uint64_t round, std::uint64_t trace, std::uint64_t token, std::uint64_t layer) {
  std::uint64_t x = (round * 0x9e3779b97f4a7c15U) ^ (trace << 56) ^ (layer << 40) ^ token;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return static_cast<double>((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

}  // namespace

TrafficBound::TrafficBound(const Problem& problem, int threads, const Assignment* start)
    : problem_(problem),
      threads_(threads),
      first_(problem, row_rule(problem, 0), most_choices(problem)),
      onward_(problem, row_rule(problem, 1), most_choices(problem)),
      constant_(problem.layers(), 0) {
  const auto add = [&](std::optional<Level>& level, std::optional<Relaxation> relaxation) {
    if (!relaxation) return;
    level.emplace(std::move(*relaxation), threads);
    const auto n = static_cast<std::size_t>(level->relaxation.items());
    level->relaxation.within.assign(problem.layers(), std::vector<double>(n * n, 0));
    if (start) level->parts = parts_of(problem, level->relaxation, *start);
  };
  if (problem.ranks() > 1) add(rank_, rank_relaxation(problem));
  add(node_, node_relaxation(problem));
  for (const WeightedTrace& part : problem.traces)
    choices_.emplace_back(static_cast<std::size_t>(last_token(part) - part.first) * problem.layers());
  choose(1);
  if (rank_) rank_->start();
  if (node_) node_->start();
}

void TrafficBound::choose_again(double share) {
  choose(share);
  if (rank_) rank_->iteration->forget_bound();
  if (node_) node_->iteration->forget_bound();
}

void TrafficBound::iterate(bool look) {
  if (rank_) rank_->iteration->iterate(look);
  if (node_) node_->iteration->iterate(look);
}

void TrafficBound::choose(double share) {
  ++round_;
  parallel_for(threads_, problem_.layers(), [&](std::size_t l) { choose_layer(static_cast<int>(l), share); });
}

void TrafficBound::choose_layer(int layer, double share) {
  std::vector<int> experts;
  for (std::size_t p = 0; p < problem_.traces.size(); ++p) {
    const WeightedTrace& part = problem_.traces[p];
    const std::int64_t last = last_token(part);
    for (std::int64_t t = part.first; t < last; ++t) {
      if (share < 1 && draw(round_, p, t, layer) >= share) continue;
      load_experts(problem_, *part.trace, t, layer, experts);
      if (experts.empty()) continue;
      RowChoice& choice = choices_[p][static_cast<std::size_t>(t - part.first) * problem_.layers() + layer];
      if (choice.members != 0) count(layer, experts, choice, -part.weight);
      choice = best_choice(layer, experts);
      count(layer, experts, choice, part.weight);
    }
  }
}

/// Adds a choice to the sum of constants and to the weights of pairs.
void TrafficBound::count(int layer, const std::vector<int>& experts, const RowChoice& choice, double weight) {
  const RowFacet& facet = facets(layer).of(std::popcount(choice.members))[choice.facet];
  constant_[layer] += weight * facet.constant;
  const auto add = [&](std::optional<Level>& level, double price) {
    if (!level || price <= 0) return;
    std::vector<double>& pairs = level->relaxation.within[layer];
    const auto n = static_cast<std::size_t>(level->relaxation.items());
    for (std::size_t a = 0; a < experts.size() && a < kMostMembers; ++a)
      for (std::size_t b = 0; b < a; ++b) {
        if (!(choice.members >> a & 1) || !(choice.members >> b & 1)) continue;
        pairs[experts[a] * n + experts[b]] += weight * price;
        pairs[experts[b] * n + experts[a]] += weight * price;
      }
  };
  add(rank_, facet.rank_price);
  add(node_, facet.node_price);
}

/// The best facet for all experts of the token and for fewer of them, leaving out one after the other the expert that
/// shares most with those that are left.
RowChoice TrafficBound::best_choice(int layer, const std::vector<int>& experts) const {
  const int count = static_cast<int>(std::min<std::size_t>(experts.size(), kMostMembers));
  std::array<std::array<double, kMostMembers>, kMostMembers> ranks{}, nodes{};
  const auto load = [&](const std::optional<Level>& level, auto& pairs) {
    if (!level) return;
    // Before the first iteration items share a part as they do at the start, and some of it at random: a placement by
    // itself fits many facets alike.
    const int n = level->relaxation.items();
    const double random = (level->relaxation.capacity - 1.0) / std::max(1, n - 1);
    for (int a = 0; a < count; ++a)
      for (int b = 0; b < a; ++b) {
        const auto [low, high] = std::minmax(experts[a], experts[b]);
        double share = random;
        if (level->iteration) {
          share = level->iteration->within(layer)[static_cast<std::size_t>(low) * n + high];
        } else if (!level->parts.empty()) {
          const bool together = level->parts[layer][low] == level->parts[layer][high];
          share = kTrust * (together ? 1 : 0) + (1 - kTrust) * random;
        }
        if (problem_.replicas > 0) share *= kCopies;
        pairs[a][b] = pairs[b][a] = share;
      }
  };
  load(rank_, ranks);
  load(node_, nodes);

  std::array<double, kMostMembers> with{};  // what each member shares with the others
  double rank_pairs = 0, node_pairs = 0;
  for (int a = 0; a < count; ++a)
    for (int b = 0; b < count; ++b) {
      with[a] += ranks[a][b] + nodes[a][b];
      rank_pairs += ranks[a][b] / 2;
      node_pairs += nodes[a][b] / 2;
    }
  RowChoice best;
  double most = -std::numeric_limits<double>::infinity();
  auto members = static_cast<std::uint16_t>((1U << count) - 1);
  for (int size = count; size > 0; --size) {
    if (size <= facets(layer).most()) {
      const auto all = facets(layer).of(size);
      for (std::size_t f = 0; f < all.size(); ++f) {
        if ((!rank_ && all[f].rank_price > 0) || (!node_ && all[f].node_price > 0)) continue;
        const double rows = all[f].constant - all[f].rank_price * rank_pairs - all[f].node_price * node_pairs;
        if (rows <= most) continue;
        most = rows;
        best = {members, static_cast<std::uint16_t>(f)};
      }
    }
    int out = -1;
    for (int a = 0; a < count; ++a)
      if ((members >> a & 1) && (out < 0 || with[a] > with[out])) out = a;
    members = static_cast<std::uint16_t>(members & ~(1U << out));
    for (int a = 0; a < count; ++a) {
      if (!(members >> a & 1)) continue;
      with[a] -= ranks[a][out] + nodes[a][out];
      rank_pairs -= ranks[a][out];
      node_pairs -= nodes[a][out];
    }
  }
  return best;
}

double TrafficBound::fewest_ranks() const {
  double rows = 0;
  std::vector<int> experts;
  for (const WeightedTrace& part : problem_.traces)
    for (std::int64_t t = part.first; t < last_token(part); ++t)
      for (int l = 0; l < problem_.layers(); ++l) {
        load_experts(problem_, *part.trace, t, l, experts);
        const auto all = facets(l).of(std::min(static_cast<int>(experts.size()), facets(l).most()));
        const auto flat = std::find_if(all.begin(), all.end(),
                                       [](const RowFacet& f) { return f.rank_price == 0 && f.node_price == 0; });
        if (flat != all.end()) rows += part.weight * flat->constant;
      }
  return rows * (1 - 1e-11) / (problem_.statistics.tokens * problem_.layers());
}

void TrafficBound::count_fewest_ranks() {
  rank_.reset();
  node_.reset();
  std::fill(constant_.begin(), constant_.end(), 0.0);
  for (auto& choices : choices_) std::fill(choices.begin(), choices.end(), RowChoice{});
  choose(1);
}

double TrafficBound::bound() const {
  double rows = std::accumulate(constant_.begin(), constant_.end(), 0.0);
  if (rank_) rows -= rank_->iteration->bound();
  if (node_) rows -= node_->iteration->bound();
  return std::max(0.0, rows) / (problem_.statistics.tokens * problem_.layers());
}

double TrafficBound::proven() const {
  double rows = std::accumulate(constant_.begin(), constant_.end(), 0.0);
  rows -= 1e-11 * rows;
  if (rank_) rows -= dual_bound(rank_->relaxation, rank_->iteration->dual(), threads_);
  if (node_) rows -= dual_bound(node_->relaxation, node_->iteration->dual(), threads_);
  return std::max(0.0, rows) / (problem_.statistics.tokens * problem_.layers());
}

int TrafficBound::iterations() const {
  return rank_ ? rank_->iteration->iterations() : 0;
}

std::string TrafficBound::kind() const {
  return rank_ ? "coactivation " + rank_->iteration->kind() : "fewest ranks";
}

DualCertificate TrafficBound::certificate() const {
  DualCertificate made;
  const auto add = [&](const std::optional<Level>& level, const char* name) {
    if (level)
      made.levels.push_back({name, level->relaxation.parts, level->relaxation.capacity, level->iteration->dual()});
  };
  add(rank_, "rank");
  add(node_, "node");
  for (int u = 0; u <= first_.most(); ++u) made.first_facets.emplace_back(first_.of(u).begin(), first_.of(u).end());
  for (int u = 0; u <= onward_.most(); ++u) made.onward_facets.emplace_back(onward_.of(u).begin(), onward_.of(u).end());
  made.choices = choices_;
  return made;
}

}  // namespace coterie
