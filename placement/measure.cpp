// What a placement costs: problem.hpp has the rules. Affinity and load come from the statistics, traffic from a walk of
// every token through the layers.
#include "placement/parallel.hpp"
#include "placement/problem.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace coterie {
namespace {

// Tokens of a trace that are walked as one piece of work; sums are added piece by piece, so they don't depend on
// threads.
constexpr std::int64_t kPiece = 2048;

// Homes with the same coherence domain. `share` of all homes; the homes are the ranks [first, last), evenly.
struct Homes {
  double share;
  int first, last;
  bool coherent;  // tokens may land on any of [first, last); otherwise only at home
};

std::vector<Homes> homes_of(const Problem& problem) {
  const int ranks = problem.ranks();
  if (problem.domain != Domain::node) return {{1.0, 0, ranks, problem.domain == Domain::world}};
  std::vector<Homes> homes;
  int first = 0;
  for (const int size : problem.topology.ranks_per_node) {
    homes.push_back({static_cast<double>(size) / ranks, first, first + size, true});
    first += size;
  }
  return homes;
}

struct Tally {
  double rows = 0;
  double between = 0;
  std::vector<double> rank_rows;  // (layers, ranks), with replicas only

  void add(const Tally& other, double weight) {
    rows += weight * other.rows;
    between += weight * other.between;
    for (std::size_t i = 0; i < rank_rows.size(); ++i) rank_rows[i] += weight * other.rank_rows[i];
  }
};

// Walks tokens through a placement.
class Walk {
 public:
  Walk(const Problem& problem, const Owners& owners)
      : problem_(problem), owners_(owners), node_(problem.topology.node_of_rank()), homes_(homes_of(problem)) {
    for (const auto& layer : owners)
      for (const auto& ranks : layer) replicated_ = replicated_ || ranks.size() > 1;
    nodes_.resize(problem.topology.nodes());
    int first = 0;
    for (std::size_t n = 0; n < nodes_.size(); ++n) {
      nodes_[n] = {first, first + problem.topology.ranks_per_node[n]};
      first = nodes_[n].second;
    }
  }

  [[nodiscard]] Tally tokens(const Trace& trace, std::int64_t begin, std::int64_t end) const {
    Tally tally;
    if (replicated_) tally.rank_rows.assign(owners_.size() * node_.size(), 0);
    for (std::int64_t t = begin; t < end; ++t) {
      if (!replicated_) {
        for (const Homes& homes : homes_) token(trace, t, homes, 1, tally);
        continue;
      }
      const int home = static_cast<int>(t % problem_.ranks());
      const Homes* domain = &homes_.front();
      while (home >= domain->last) ++domain;
      token(trace, t, *domain, 1 / domain->share, tally, home);
    }
    return tally;
  }

 private:
  struct Visited {
    int rank;
    double sum;  // of gate weights, or of choices
    int choices;
  };
  static constexpr int kHome = -1;  // somewhere among the homes of the group, evenly

  // A row between `rank` and `other`, which may be kHome.
  void row(int rank, int other, const Homes& homes, double weight, Tally& tally) const {
    if (rank == kHome) std::swap(rank, other);
    if (rank == kHome || rank == other) return;
    if (other != kHome) {
      tally.rows += weight;
      if (node_[rank] != node_[other]) tally.between += weight;
      return;
    }
    const auto [node_first, node_last] = nodes_[node_[rank]];
    const double all = homes.last - homes.first;
    const double same = rank >= homes.first && rank < homes.last ? 1 : 0;
    const double near = std::max(0, std::min(node_last, homes.last) - std::max(node_first, homes.first));
    tally.rows += weight * (all - same) / all;
    tally.between += weight * (all - near) / all;
  }

  void token(const Trace& trace, std::int64_t t, const Homes& homes, double scale, Tally& tally,
             int home = kHome) const {
    const int top = problem_.top > 0 ? std::min(problem_.top, trace.top_k) : trace.top_k;
    const double weight = homes.share * scale;
    int resident = home;
    std::vector<Visited> visited;
    visited.reserve(top);
    for (int l = 0; l < trace.layers(); ++l) {
      visited.clear();
      const std::size_t begin = (static_cast<std::size_t>(t) * trace.layers() + l) * trace.top_k;
      for (int c = 0; c < top; ++c) {
        const int expert = trace.experts[begin + c];
        if (expert == Trace::kNoExpert) continue;
        const double gate = trace.weights.empty() ? 1.0F : float{trace.weights[begin + c]};
        const int rank = rank_of(l, expert, resident, visited, t);
        auto found = std::find_if(visited.begin(), visited.end(), [&](const Visited& v) { return v.rank == rank; });
        if (found == visited.end()) found = visited.insert(found, {rank, 0, 0});
        found->sum += gate;
        ++found->choices;
        if (!tally.rank_rows.empty()) tally.rank_rows[l * node_.size() + rank] += weight;
      }
      if (visited.empty()) continue;
      const int landing = land(visited, homes, home);
      bool computes = false;
      for (const Visited& v : visited) {
        row(resident, v.rank, homes, weight, tally);
        row(v.rank, landing, homes, weight, tally);
        computes = computes || v.rank == landing;
      }
      if (homes.coherent && !computes) row(resident, landing, homes, weight, tally);
      resident = landing;
    }
  }

  int land(const std::vector<Visited>& visited, const Homes& homes, int home) const {
    if (!homes.coherent) return home;
    const Visited* best = nullptr;
    for (const Visited& v : visited) {
      if (v.rank < homes.first || v.rank >= homes.last) continue;
      if (!best || v.sum > best->sum || (v.sum == best->sum && v.choices > best->choices)) best = &v;
    }
    return best ? best->rank : home;
  }

  int rank_of(int layer, int expert, int resident, const std::vector<Visited>& visited, std::int64_t t) const {
    const std::vector<int>& ranks = owners_[layer][expert];
    if (ranks.size() == 1) return ranks.front();
    const auto pick = [&](auto&& fits) {
      const auto count = std::count_if(ranks.begin(), ranks.end(), fits);
      if (count == 0) return -1;
      auto number = (t / problem_.ranks()) % count;
      for (const int r : ranks)
        if (fits(r) && number-- == 0) return r;
      return -1;
    };
    int rank = pick([&](int r) { return r == resident; });
    if (rank < 0)
      rank = pick([&](int r) {
        return std::any_of(visited.begin(), visited.end(), [&](const Visited& v) { return v.rank == r; });
      });
    if (rank < 0) rank = pick([&](int r) { return node_[r] == node_[resident]; });
    return rank < 0 ? pick([](int) { return true; }) : rank;
  }

  const Problem& problem_;
  const Owners& owners_;
  std::vector<int> node_;                   // (ranks)
  std::vector<std::pair<int, int>> nodes_;  // (nodes): the ranks [first, last)
  std::vector<Homes> homes_;
  bool replicated_ = false;
};

// Sums over all tokens of the problem's traces, times the weights of the traces.
Tally walk(const Problem& problem, const Owners& owners) {
  struct Piece {
    const WeightedTrace* from;
    std::int64_t begin, end;
    Tally tally;
  };
  std::vector<Piece> pieces;
  for (const WeightedTrace& part : problem.traces) {
    const std::int64_t last =
        part.count < 0 ? part.trace->tokens() : std::min(part.trace->tokens(), part.first + part.count);
    for (std::int64_t t = part.first; t < last; t += kPiece)
      pieces.push_back({&part, t, std::min(last, t + kPiece), {}});
  }
  const Walk walk(problem, owners);
  parallel_for(0, pieces.size(), [&](std::size_t i) {
    pieces[i].tally = walk.tokens(*pieces[i].from->trace, pieces[i].begin, pieces[i].end);
  });
  Tally total;
  total.rank_rows.assign(static_cast<std::size_t>(problem.layers()) * problem.ranks(), 0);
  for (const Piece& piece : pieces) {
    if (piece.tally.rank_rows.empty()) total.rank_rows.clear();
    total.add(piece.tally, piece.from->weight);
  }
  return total;
}

// Rows by the statistics, those of a replicated expert shared evenly.
std::vector<double> shared_rows(const Problem& problem, const Owners& owners) {
  std::vector<double> rows(static_cast<std::size_t>(problem.layers()) * problem.ranks(), 0);
  for (int l = 0; l < problem.layers(); ++l)
    for (int e = 0; e < problem.experts(); ++e)
      for (const int r : owners[l][e])
        rows[static_cast<std::size_t>(l) * problem.ranks() + r] +=
            problem.statistics.load_at(l)[e] / static_cast<double>(owners[l][e].size());
  return rows;
}

bool replicated(const Owners& owners) {
  for (const auto& layer : owners)
    for (const auto& ranks : layer)
      if (ranks.size() > 1) return true;
  return false;
}

void measure_load(const Problem& problem, const std::vector<double>& rows, Figures& figures) {
  const int ranks = problem.ranks();
  for (int l = 0; l < problem.layers(); ++l) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(l) * ranks;
    const double mean = std::accumulate(begin, begin + ranks, 0.0) / ranks;
    const double ratio = mean > 0 ? *std::max_element(begin, begin + ranks) / mean : 1;
    figures.load_mean += ratio / problem.layers();
    figures.load_worst = std::max(figures.load_worst, ratio);
  }
}

// With replicas a pair of experts keeps what its best pair of ranks keeps.
void measure_affinity(const Problem& problem, const Owners& owners, Figures& figures) {
  const int ranks = problem.ranks();
  const int experts = problem.experts();
  const std::vector<double> price = link_prices(problem.topology, problem.prices);
  const double dearest = *std::max_element(price.begin(), price.end());
  double total = 0, kept = 0, stays = 0;
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const auto weight = problem.statistics.affinity_at(l);
    for (int i = 0; i < experts; ++i)
      for (int j = 0; j < experts; ++j) {
        const double w = weight[static_cast<std::size_t>(i) * experts + j];
        double cheapest = dearest;
        for (const int r : owners[l][i])
          for (const int s : owners[l + 1][j])
            cheapest = std::min(cheapest, price[static_cast<std::size_t>(r) * ranks + s]);
        total += w;
        if (cheapest < dearest) kept += w * (1 - cheapest / dearest);
        if (cheapest == 0) stays += w;
      }
  }
  figures.affinity = total > 0 && dearest > 0 ? kept / total : 1;
  figures.stays = total > 0 ? stays / total : 1;
}

void measure_traffic(const Problem& problem, const Tally& tally, Figures& figures) {
  const double steps = problem.statistics.tokens * problem.layers();
  figures.rows = tally.rows / steps;
  figures.rows_between = tally.between / steps;
  figures.priced = problem.prices.inside_node * (figures.rows - figures.rows_between) +
                   problem.prices.between_nodes * figures.rows_between;
}

double value_of(Objective objective, const Figures& figures) {
  switch (objective) {
    case Objective::affinity:
      return figures.affinity;
    case Objective::traffic:
      return figures.priced;
    case Objective::load:
      return figures.load_mean;
  }
  return 0;
}

}  // namespace

std::vector<double> rank_rows(const Problem& problem, const Owners& owners) {
  if (problem.traces.empty() || !replicated(owners)) return shared_rows(problem, owners);
  return walk(problem, owners).rank_rows;
}

Figures measure(const Problem& problem, const Owners& owners) {
  Figures figures;
  measure_affinity(problem, owners, figures);
  const Tally tally = walk(problem, owners);
  if (!problem.traces.empty()) measure_traffic(problem, tally, figures);
  measure_load(problem,
               tally.rank_rows.empty() || problem.traces.empty() ? shared_rows(problem, owners) : tally.rank_rows,
               figures);
  figures.value = value_of(problem.objective, figures);
  return figures;
}

Figures measure(const Problem& problem, const Assignment& assignment) {
  return measure(problem, owners_of(assignment));
}

double evaluate(const Problem& problem, const Owners& owners) {
  Figures figures;
  switch (problem.objective) {
    case Objective::affinity:
      measure_affinity(problem, owners, figures);
      break;
    case Objective::traffic:
      if (problem.traces.empty())
        throw std::invalid_argument("traffic is counted from traces, and the problem has none");
      measure_traffic(problem, walk(problem, owners), figures);
      break;
    case Objective::load:
      measure_load(problem, rank_rows(problem, owners), figures);
      break;
  }
  return value_of(problem.objective, figures);
}

double evaluate(const Problem& problem, const Assignment& assignment) {
  return evaluate(problem, owners_of(assignment));
}

}  // namespace coterie
