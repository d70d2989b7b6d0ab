// What a placement costs: problem.hpp has the rules. Affinity and load come from the statistics, traffic from a walk of
// every token through the layers.
#include "placement/parallel.hpp"
#include "placement/problem.hpp"

#include <algorithm>
#include <numeric>
#include <span>
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
  std::vector<double> pair_rows;  // (ranks, ranks), where asked for
  std::vector<double> moves;      // (layers - 1, groups, groups), where asked for

  void add(const Tally& other, double weight) {
    rows += weight * other.rows;
    between += weight * other.between;
    const auto sum = [&](std::vector<double>& mine, const std::vector<double>& others) {
      for (std::size_t i = 0; i < mine.size(); ++i) mine[i] += weight * others[i];
    };
    sum(rank_rows, other.rank_rows);
    sum(pair_rows, other.pair_rows);
    sum(moves, other.moves);
  }
};

// What a walk counts besides the sums.
enum class Count { sums, pairs, moves };

// Walks tokens through a placement.
class Walk {
 public:
  // `groups` is what `moves` are counted between: the group of each rank.
  Walk(const Problem& problem, const Owners& owners, Count count = Count::sums, std::span<const int> groups = {})
      : problem_(problem),
        owners_(owners),
        count_(count),
        group_(groups),
        groups_(groups.empty() ? 0 : *std::max_element(groups.begin(), groups.end()) + 1),
        node_(problem.topology.node_of_rank()),
        homes_(homes_of(problem)) {
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
    if (count_ == Count::pairs) tally.pair_rows.assign(node_.size() * node_.size(), 0);
    if (count_ == Count::moves) tally.moves.assign((owners_.size() - 1) * groups_ * groups_, 0);
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

  // Calls visit(rank, share) for the ranks that `rank` stands for: itself, or the homes, evenly.
  template <class Visit>
  static void for_each_rank(int rank, const Homes& homes, Visit&& visit) {
    if (rank != kHome) return visit(rank, 1.0);
    for (int r = homes.first; r < homes.last; ++r) visit(r, 1.0 / (homes.last - homes.first));
  }

  // A token that was resident at `from` has passed `layer` and is resident at `to`.
  void move(int layer, int from, int to, const Homes& homes, double weight, Tally& tally) const {
    if (layer == 0 || tally.moves.empty()) return;
    double* moves = &tally.moves[(layer - 1) * groups_ * groups_];
    for_each_rank(from, homes, [&](int a, double share) {
      if (to == kHome)
        moves[group_[a] * groups_ + group_[a]] += weight * share;
      else
        moves[group_[a] * groups_ + group_[to]] += weight * share;
    });
  }

  // A row from `rank` to `other`; one of them may be kHome.
  void row(int rank, int other, const Homes& homes, double weight, Tally& tally) const {
    if (!tally.pair_rows.empty() && rank != other) {
      for_each_rank(rank, homes, [&](int a, double share_a) {
        for_each_rank(other, homes, [&](int b, double share_b) {
          if (a != b) tally.pair_rows[a * node_.size() + b] += weight * share_a * share_b;
        });
      });
    }
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
      if (visited.empty()) {
        move(l, resident, resident, homes, weight, tally);
        continue;
      }
      const int landing = land(visited, homes, home);
      bool computes = false;
      for (const Visited& v : visited) {
        row(resident, v.rank, homes, weight, tally);
        row(v.rank, landing, homes, weight, tally);
        computes = computes || v.rank == landing;
      }
      if (homes.coherent && !computes) row(resident, landing, homes, weight, tally);
      move(l, resident, landing, homes, weight, tally);
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
  Count count_;
  std::span<const int> group_;  // (ranks)
  std::size_t groups_;
  std::vector<int> node_;                   // (ranks)
  std::vector<std::pair<int, int>> nodes_;  // (nodes): the ranks [first, last)
  std::vector<Homes> homes_;
  bool replicated_ = false;
};

// Sums over all tokens of the problem's traces, times the weights of the traces.
Tally walk(const Problem& problem, const Walk& walk, std::int64_t piece_size = kPiece) {
  struct Piece {
    const WeightedTrace* from;
    std::int64_t begin, end;
    Tally tally;
  };
  std::vector<Piece> pieces;
  for (const WeightedTrace& part : problem.traces) {
    const std::int64_t last =
        part.count < 0 ? part.trace->tokens() : std::min(part.trace->tokens(), part.first + part.count);
    for (std::int64_t t = part.first; t < last; t += piece_size)
      pieces.push_back({&part, t, std::min(last, t + piece_size), {}});
  }
  parallel_for(0, pieces.size(), [&](std::size_t i) {
    pieces[i].tally = walk.tokens(*pieces[i].from->trace, pieces[i].begin, pieces[i].end);
  });
  Tally total;
  total.rank_rows.assign(static_cast<std::size_t>(problem.layers()) * problem.ranks(), 0);
  for (const Piece& piece : pieces) {
    if (piece.tally.rank_rows.empty()) total.rank_rows.clear();
    if (total.pair_rows.empty()) total.pair_rows.assign(piece.tally.pair_rows.size(), 0);
    if (total.moves.empty()) total.moves.assign(piece.tally.moves.size(), 0);
    total.add(piece.tally, piece.from->weight);
  }
  return total;
}

Tally walk(const Problem& problem, const Owners& owners) {
  return walk(problem, Walk(problem, owners));
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

struct PairOfLayers {
  double total = 0, kept = 0, stays = 0;
};

// With replicas a pair of experts keeps what its best pair of ranks keeps. `price`: (ranks, ranks).
PairOfLayers affinity_from(int layer, const Problem& problem, const Owners& owners, const std::vector<double>& price) {
  const double dearest = *std::max_element(price.begin(), price.end());
  const auto weight = problem.statistics.affinity_at(layer);
  PairOfLayers pair;
  for (int i = 0; i < problem.experts(); ++i)
    for (int j = 0; j < problem.experts(); ++j) {
      const double w = weight[static_cast<std::size_t>(i) * problem.experts() + j];
      double cheapest = dearest;
      for (const int r : owners[layer][i])
        for (const int s : owners[layer + 1][j])
          cheapest = std::min(cheapest, price[static_cast<std::size_t>(r) * problem.ranks() + s]);
      pair.total += w;
      if (cheapest < dearest) pair.kept += w * (1 - cheapest / dearest);
      if (cheapest == 0) pair.stays += w;
    }
  return pair;
}

void measure_affinity(const Problem& problem, const Owners& owners, Figures& figures) {
  if (problem.statistics.affinity.empty() && problem.layers() > 1) return;  // counts of load know no pairs
  const std::vector<double> price = link_prices(problem.topology, problem.prices);
  const double dearest = *std::max_element(price.begin(), price.end());
  if (problem.statistics.affinity.empty() && problem.layers() > 1) return;  // loads are all that is known
  PairOfLayers all;
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const PairOfLayers pair = affinity_from(l, problem, owners, price);
    all.total += pair.total;
    all.kept += pair.kept;
    all.stays += pair.stays;
  }
  figures.affinity = all.total > 0 && dearest > 0 ? all.kept / all.total : 1;
  figures.stays = all.total > 0 ? all.stays / all.total : 1;
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

// Large counts are kept for few pieces at a time.
constexpr std::int64_t kPieces = 8;

std::int64_t large_piece(const Problem& problem) {
  std::int64_t most = kPiece;
  for (const WeightedTrace& part : problem.traces) most = std::max(most, part.trace->tokens() / kPieces + 1);
  return most;
}

}  // namespace

std::vector<double> stays_by_layer(const Problem& problem, const Owners& owners) {
  const std::vector<double> price = link_prices(problem.topology, problem.prices);
  std::vector<double> stays;
  if (problem.statistics.affinity.empty()) return stays;
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const PairOfLayers pair = affinity_from(l, problem, owners, price);
    stays.push_back(pair.total > 0 ? pair.stays / pair.total : 1);
  }
  return stays;
}

std::vector<double> rows_between_ranks(const Problem& problem, const Owners& owners) {
  std::vector<double> rows = walk(problem, Walk(problem, owners, Count::pairs), large_piece(problem)).pair_rows;
  for (double& r : rows) r /= problem.statistics.tokens * problem.layers();
  return rows;
}

std::vector<double> moves_between(const Problem& problem, const Owners& owners, std::span<const int> group_of_rank) {
  Problem anywhere;
  anywhere.domain = Domain::world;
  anywhere.topology = problem.topology;
  anywhere.traces = problem.traces;
  anywhere.top = problem.top;
  anywhere.statistics.layers = problem.layers();
  std::vector<double> moves =
      walk(anywhere, Walk(anywhere, owners, Count::moves, group_of_rank), large_piece(anywhere)).moves;
  for (double& m : moves) m /= problem.statistics.tokens;
  return moves;
}

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
