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
constexpr std::int64_t kMany = 8'000'000;    // choices of tokens at a layer, beyond which the first are made alike
constexpr std::int64_t kAlikeTokens = 1000;  // of a layer, by which it is decided what the choices alike are
constexpr std::int64_t kBetweenStops = 512;  // tokens
constexpr double kTrust = 0.85;              // in the placement that the first choices are made by
constexpr double kCopies = 2;                // times what S says of first copies is shared where there are further ones

// What counting the fewest ranks takes is known, and short.
const std::function<bool()> kNever = [] { return false; };

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

/// Of those that may be members.
struct TrafficBound::PairShares {
  int count = 0;
  std::array<std::array<double, kMostMembers>, kMostMembers> ranks{}, nodes{};
  double rank_pairs = 0, node_pairs = 0;  // sums over pairs
};

TrafficBound::TrafficBound(const Problem& problem, int threads, std::function<bool()> stop, const Assignment* start,
                           bool relax)
    : problem_(problem),
      threads_(threads),
      stop_(std::move(stop)),
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
  if (relax && problem.ranks() > 1) add(rank_, rank_relaxation(problem));
  if (relax) add(node_, node_relaxation(problem));
  std::int64_t cells = 0;
  for (const WeightedTrace& part : problem.traces) {
    choices_.emplace_back(static_cast<std::size_t>(last_token(part) - part.first) * problem.layers());
    cells += (last_token(part) - part.first) * problem.layers();
  }
  large_ = cells > kMany;
  if (!relax) stop_ = kNever;
  if (large_ || !relax)
    choose_alike();
  else
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

/// Calls each(number of the window, token, room for its experts) until `stop`.
template <typename Each>
void TrafficBound::for_tokens(const std::function<bool()>& stop, Each&& each) const {
  std::vector<int> experts;
  for (std::size_t p = 0; p < problem_.traces.size(); ++p) {
    const WeightedTrace& part = problem_.traces[p];
    const std::int64_t last = last_token(part);
    for (std::int64_t t = part.first; t < last; ++t) {
      if ((t - part.first) % kBetweenStops == 0 && stop()) return;
      each(p, t, experts);
    }
  }
}

void TrafficBound::choose_layer(int layer, double share) {
  for_tokens(stop_, [&](std::size_t p, std::int64_t t, std::vector<int>& experts) {
    if (share < 1 && draw(round_, p, t, layer) >= share) return;
    const WeightedTrace& part = problem_.traces[p];
    load_experts(problem_, *part.trace, t, layer, experts);
    if (experts.empty()) return;
    RowChoice& choice = choices_[p][static_cast<std::size_t>(t - part.first) * problem_.layers() + layer];
    if (choice.members != 0) count(layer, experts, choice, -part.weight);
    choice = best_choice(layer, experts);
    count(layer, experts, choice, part.weight);
  });
  mirror(layer);
}

void TrafficBound::choose_alike() {
  parallel_for(threads_, problem_.layers(), [&](std::size_t l) { choose_layer_alike(static_cast<int>(l)); });
}

/// All experts of every token, and the facet that is best for a sample of tokens with as many.
void TrafficBound::choose_layer_alike(int layer) {
  const RowFacets& all = facets(layer);
  const int most = std::min(kMostMembers, all.most());
  std::vector<std::vector<double>> rows(most + 1);  // (members, facets): sums over the sample
  for (int u = 0; u <= most; ++u) rows[u].assign(all.of(u).size(), 0);
  std::int64_t tokens = 0;
  for (const auto& choices : choices_) tokens += static_cast<std::int64_t>(choices.size()) / problem_.layers();
  const double share = std::min(1.0, static_cast<double>(kAlikeTokens) / static_cast<double>(tokens));
  for_tokens(stop_, [&](std::size_t p, std::int64_t t, std::vector<int>& experts) {
    if (draw(0, p, t, layer) >= share) return;
    load_experts(problem_, *problem_.traces[p].trace, t, layer, experts);
    if (static_cast<int>(experts.size()) > most) experts.resize(most);
    const PairShares pairs = pair_shares(layer, experts);
    for (std::size_t f = 0; f < rows[pairs.count].size(); ++f) {
      const RowFacet& facet = all.of(pairs.count)[f];
      rows[pairs.count][f] +=
          facet.constant - facet.rank_price * pairs.rank_pairs - facet.node_price * pairs.node_pairs;
    }
  });
  std::vector<RowChoice> choice_of(most + 1);
  for (int u = 1; u <= most; ++u) {
    double best = -std::numeric_limits<double>::infinity();
    for (std::size_t f = 0; f < rows[u].size(); ++f) {
      if (!is_bounded(all.of(u)[f]) || rows[u][f] <= best) continue;
      best = rows[u][f];
      choice_of[u] = {static_cast<std::uint16_t>((1U << u) - 1), static_cast<std::uint16_t>(f)};
    }
  }
  for_tokens(stop_, [&](std::size_t p, std::int64_t t, std::vector<int>& experts) {
    const WeightedTrace& part = problem_.traces[p];
    load_experts(problem_, *part.trace, t, layer, experts);
    const RowChoice& choice = choice_of[std::min<std::size_t>(experts.size(), most)];
    if (choice.members == 0) return;
    choices_[p][static_cast<std::size_t>(t - part.first) * problem_.layers() + layer] = choice;
    count(layer, experts, choice, part.weight);
  });
  mirror(layer);
}

/// The upper triangles of the weights of pairs: `count` adds to the lower ones alone.
void TrafficBound::mirror(int layer) {
  for (std::optional<Level>* level : {&rank_, &node_}) {
    if (!*level) continue;
    std::vector<double>& pairs = (*level)->relaxation.within[layer];
    const auto n = static_cast<std::size_t>((*level)->relaxation.items());
    for (std::size_t i = 0; i < static_cast<std::size_t>(problem_.experts()); ++i)
      for (std::size_t j = 0; j < i; ++j) pairs[j * n + i] = pairs[i * n + j];
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
        const auto [low, high] = std::minmax(experts[a], experts[b]);
        pairs[high * n + low] += weight * price;
      }
  };
  add(rank_, facet.rank_price);
  add(node_, facet.node_price);
}

TrafficBound::PairShares TrafficBound::pair_shares(int layer, const std::vector<int>& experts) const {
  PairShares shares;
  shares.count = static_cast<int>(std::min<std::size_t>(experts.size(), kMostMembers));
  const auto load = [&](const std::optional<Level>& level, auto& pairs, double& sum) {
    if (!level) return;
    // Before the first iteration items share a part as they do at the start, and some of it at random: a placement by
    // itself fits many facets alike.
    const int n = level->relaxation.items();
    const double random = (level->relaxation.capacity - 1.0) / std::max(1, n - 1);
    for (int a = 0; a < shares.count; ++a)
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
        sum += share;
      }
  };
  load(rank_, shares.ranks, shares.rank_pairs);
  load(node_, shares.nodes, shares.node_pairs);
  return shares;
}

/// The best facet for all experts of the token and for fewer of them, leaving out one after the other the expert that
/// shares most with those that are left.
RowChoice TrafficBound::best_choice(int layer, const std::vector<int>& experts) const {
  auto [count, ranks, nodes, rank_pairs, node_pairs] = pair_shares(layer, experts);
  std::array<double, kMostMembers> with{};  // what each member shares with the others
  for (int a = 0; a < count; ++a)
    for (int b = 0; b < count; ++b) with[a] += ranks[a][b] + nodes[a][b];
  RowChoice best;
  double most = -std::numeric_limits<double>::infinity();
  auto members = static_cast<std::uint16_t>((1U << count) - 1);
  for (int size = count; size > 0; --size) {
    if (size <= facets(layer).most()) {
      const auto all = facets(layer).of(size);
      for (std::size_t f = 0; f < all.size(); ++f) {
        if (!is_bounded(all[f])) continue;
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
  std::vector<double> rows(problem_.layers(), 0);
  parallel_for(threads_, problem_.layers(), [&](std::size_t l) {
    const RowFacets& all = facets(static_cast<int>(l));
    std::vector<double> fewest(all.most() + 1, 0);  // (experts of a token)
    for (int u = 0; u <= all.most(); ++u)
      for (const RowFacet& f : all.of(u))
        if (f.rank_price == 0 && f.node_price == 0) fewest[u] = f.constant;
    for_tokens(kNever, [&](std::size_t p, std::int64_t t, std::vector<int>& experts) {
      load_experts(problem_, *problem_.traces[p].trace, t, static_cast<int>(l), experts);
      rows[l] += problem_.traces[p].weight * fewest[std::min(static_cast<int>(experts.size()), all.most())];
    });
  });
  return std::accumulate(rows.begin(), rows.end(), 0.0) * (1 - 1e-11) /
         (problem_.statistics.tokens * problem_.layers());
}

void TrafficBound::count_fewest_ranks() {
  stop_ = kNever;
  rank_.reset();
  node_.reset();
  std::fill(constant_.begin(), constant_.end(), 0.0);
  for (auto& choices : choices_) std::fill(choices.begin(), choices.end(), RowChoice{});
  choose_alike();
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
