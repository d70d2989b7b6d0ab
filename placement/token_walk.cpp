#include "placement/token_walk.hpp"

#include "placement/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace coterie {
namespace {

// Tokens of a trace that are walked as one piece of work; sums are added piece by piece, so they don't depend on
// threads. Large tables are kept for few pieces at a time.
constexpr std::int64_t kPiece = 2048;
constexpr std::int64_t kLargePieces = 8;

constexpr int kHome = -1;  // somewhere among the homes of the group, evenly

/// Homes with the same coherence domain: the ranks [first, last), evenly.
struct Homes {
  double share;  // of all homes
  int first, last;
  bool coherent;  // tokens may land on any of [first, last); otherwise only at home
  std::vector<double> rows,
      between;  // (ranks): of a row between the rank and a home, that it leaves the rank, the node
};

std::vector<Homes> homes_of(const Problem& problem) {
  const std::vector<int> node = problem.topology.node_of_rank();
  const int ranks = problem.ranks();
  std::vector<Homes> all;
  const auto add = [&](int first, int last, bool coherent) {
    const double homes = last - first;
    Homes& h = all.emplace_back(Homes{homes / ranks, first, last, coherent, {}, {}});
    for (int r = 0; r < ranks; ++r) {
      const bool same = r >= first && r < last;
      const auto near = std::count(node.begin() + first, node.begin() + last, node[r]);
      h.rows.push_back((homes - (same ? 1 : 0)) / homes);
      h.between.push_back((homes - static_cast<double>(near)) / homes);
    }
  };
  if (problem.domain != Domain::node) {
    add(0, ranks, problem.domain == Domain::world);
    return all;
  }
  int first = 0;
  for (const int size : problem.topology.ranks_per_node) {
    if (size > 0) add(first, first + size, true);
    first += size;
  }
  return all;
}

/// What all walks of a placement share.
struct Placed {
  Placed(const Problem& asked, const Owners& of, const WalkOptions& counted)
      : problem(asked),
        owners(of),
        options(counted),
        groups(counted.group_of_rank.empty()
                   ? 0
                   : 1 + *std::max_element(counted.group_of_rank.begin(), counted.group_of_rank.end())),
        node(asked.topology.node_of_rank()),
        homes(homes_of(asked)) {
    for (const auto& layer : owners)
      for (const auto& ranks : layer) {
        replicated = replicated || ranks.size() > 1;
        only.push_back(ranks.size() == 1 ? ranks.front() : kHome);
      }
  }

  const Problem& problem;
  const Owners& owners;
  const WalkOptions& options;
  std::size_t groups;
  std::vector<int> node;  // (ranks)
  std::vector<Homes> homes;
  std::vector<int> only;  // (layers, experts): the expert's rank; kHome: several
  bool replicated = false;
};

/// One piece of work.
class Walk {
 public:
  explicit Walk(const Placed& placed)
      : at_(placed),
        ranks_(placed.node.size()),
        between_(placed.problem.topology.nodes() > 1),
        place_(ranks_, 0),
        resident_(placed.homes.size()) {
    if (at_.replicated) tally_.rank_rows.assign(at_.owners.size() * ranks_, 0);
    if (at_.options.pairs) tally_.pair_rows.assign(ranks_ * ranks_, 0);
    tally_.moves.assign((at_.owners.size() - 1) * at_.groups * at_.groups, 0);
  }

  Tally tokens(const Trace& trace, std::int64_t begin, std::int64_t end) {
    const int top = at_.problem.top > 0 ? std::min(at_.problem.top, trace.top_k) : trace.top_k;
    stops_.resize(top);
    for (std::int64_t t = begin; t < end; ++t) {
      home_ = at_.replicated ? static_cast<int>(t % at_.problem.ranks()) : kHome;
      std::fill(resident_.begin(), resident_.end(), home_);
      std::size_t group = 0;
      while (at_.replicated && home_ >= at_.homes[group].last) ++group;
      for (int l = 0; l < trace.layers(); ++l) {
        visit(trace, t, l, top, resident_[group]);
        if (at_.replicated) {
          for (int i = 0; i < count_; ++i) tally_.rank_rows[l * ranks_ + stops_[i].rank] += stops_[i].choices;
          layer(l, group, 1);
        } else {
          for (std::size_t g = 0; g < at_.homes.size(); ++g) layer(l, g, at_.homes[g].share);
        }
      }
    }
    return std::move(tally_);
  }

 private:
  /// A rank that computes for the token.
  struct Stop {
    int rank;
    int choices;
    double sum;  // of gate weights, or of choices
  };

  /// Fills stops_: the ranks that compute for the token, in the order of its choices.
  void visit(const Trace& trace, std::int64_t t, int l, int top, int resident) {
    const std::size_t begin = (static_cast<std::size_t>(t) * trace.layers() + l) * trace.top_k;
    const std::uint16_t* experts = &trace.experts[begin];
    const Half* gates = trace.weights.empty() ? nullptr : &trace.weights[begin];
    const int* only = &at_.only[l * at_.owners.front().size()];
    count_ = 0;
    for (int c = 0; c < top; ++c) {
      if (experts[c] == Trace::kNoExpert) continue;
      int rank = only[experts[c]];
      if (rank == kHome) rank = replica(at_.owners[l][experts[c]], resident, t);
      const double gate = gates ? static_cast<double>(float{gates[c]}) : 1.0;
      if (visited(rank)) {
        stops_[place_[rank]].sum += gate;
        ++stops_[place_[rank]].choices;
      } else {
        place_[rank] = count_;
        stops_[count_++] = {rank, 1, gate};
      }
    }
  }

  [[nodiscard]] bool visited(int rank) const { return place_[rank] < count_ && stops_[place_[rank]].rank == rank; }

  /// The rank of an expert that has several: the resident one, else of the best kind the n-th.
  [[nodiscard]] int replica(const std::vector<int>& ranks, int resident, std::int64_t t) const {
    const auto kind = [&](int rank) { return visited(rank) ? 3 : at_.node[rank] == at_.node[resident] ? 2 : 1; };
    int best = 0, count = 0;
    for (const int rank : ranks) {
      if (rank == resident) return rank;
      const int k = kind(rank);
      count = k > best ? 1 : k == best ? count + 1 : count;
      best = std::max(best, k);
    }
    auto number = (t / at_.problem.ranks()) % count;
    for (const int rank : ranks)
      if (kind(rank) == best && number-- == 0) return rank;
    return ranks.front();
  }

  [[nodiscard]] int landing(const Homes& homes) const {
    if (!homes.coherent) return home_;
    const Stop* best = nullptr;
    for (int i = 0; i < count_; ++i) {
      const Stop& s = stops_[i];
      if (s.rank < homes.first || s.rank >= homes.last) continue;
      if (!best || s.sum > best->sum || (s.sum == best->sum && s.choices > best->choices)) best = &s;
    }
    return best ? best->rank : home_;
  }

  void layer(int l, std::size_t group, double weight) {
    const Homes& homes = at_.homes[group];
    const int from = resident_[group];
    const int to = count_ > 0 ? landing(homes) : from;
    if (at_.groups > 0 && l > 0) move(l, from, to, homes, weight);
    if (count_ == 0) return;
    resident_[group] = to;
    // Where no rank of the domain computes, the token's row goes home besides.
    const bool besides = homes.coherent && (to == kHome || !visited(to));
    if (at_.options.pairs) {
      for (int i = 0; i < count_; ++i) {
        add_pair(from, stops_[i].rank, homes, weight);
        add_pair(stops_[i].rank, to, homes, weight);
      }
      if (besides) add_pair(from, to, homes, weight);
    }
    double rows = 0, between = 0;
    add_rows(from, homes, rows, between);
    add_rows(to, homes, rows, between);
    if (besides) add_row(from, to, homes, rows, between);
    tally_.rows += weight * rows;
    tally_.between += weight * between;
  }

  /// A row between `end` and each of the stops.
  void add_rows(int end, const Homes& homes, double& rows, double& between) const {
    if (end == kHome) {
      for (int i = 0; i < count_; ++i) {
        rows += homes.rows[stops_[i].rank];
        between += homes.between[stops_[i].rank];
      }
      return;
    }
    rows += count_ - (visited(end) ? 1 : 0);
    if (!between_) return;
    int far = 0;
    for (int i = 0; i < count_; ++i) far += at_.node[stops_[i].rank] != at_.node[end];
    between += far;
  }

  void add_row(int from, int to, const Homes& homes, double& rows, double& between) const {
    if (from == to) return;
    if (from == kHome || to == kHome) {
      rows += homes.rows[std::max(from, to)];
      between += homes.between[std::max(from, to)];
      return;
    }
    rows += 1;
    between += at_.node[from] != at_.node[to];
  }

  // Calls visit(rank, share) for the ranks that `rank` stands for: itself, or the homes, evenly.
  template <class Visit>
  static void for_each_rank(int rank, const Homes& homes, Visit&& visit) {
    if (rank != kHome) return visit(rank, 1.0);
    for (int r = homes.first; r < homes.last; ++r) visit(r, 1.0 / (homes.last - homes.first));
  }

  void add_pair(int from, int to, const Homes& homes, double weight) {
    if (from == to) return;
    for_each_rank(from, homes, [&](int a, double share_a) {
      for_each_rank(to, homes, [&](int b, double share_b) {
        if (a != b) tally_.pair_rows[a * ranks_ + b] += weight * share_a * share_b;
      });
    });
  }

  // A token that was resident at `from` has passed layer `l` and is resident at `to`.
  void move(int l, int from, int to, const Homes& homes, double weight) {
    double* moves = &tally_.moves[(l - 1) * at_.groups * at_.groups];
    const auto& group = at_.options.group_of_rank;
    for_each_rank(from, homes, [&](int a, double share) {
      moves[group[a] * at_.groups + group[to == kHome ? a : to]] += weight * share;
    });
  }

  const Placed& at_;
  std::size_t ranks_;
  bool between_;
  int home_ = kHome;
  std::vector<Stop> stops_;    // (choices)
  int count_ = 0;              // of stops_
  std::vector<int> place_;     // (ranks): index into stops_, meaningful only where that has the rank
  std::vector<int> resident_;  // (groups of homes)
  Tally tally_;
};

}  // namespace

void Tally::add(const Tally& other, double weight) {
  rows += weight * other.rows;
  between += weight * other.between;
  const auto sum = [&](std::vector<double>& mine, const std::vector<double>& others) {
    mine.resize(others.size(), 0);
    for (std::size_t i = 0; i < mine.size(); ++i) mine[i] += weight * others[i];
  };
  sum(rank_rows, other.rank_rows);
  sum(pair_rows, other.pair_rows);
  sum(moves, other.moves);
}

std::optional<Tally> walk(const Problem& problem, const Owners& owners, const WalkOptions& options) {
  const Placed placed(problem, owners, options);
  const bool large = options.pairs || !options.group_of_rank.empty();
  struct Piece {
    const WeightedTrace* from;
    std::int64_t begin, end;
    Tally tally;
  };
  std::vector<Piece> pieces;
  for (const WeightedTrace& part : problem.traces) {
    const std::int64_t last =
        part.count < 0 ? part.trace->tokens() : std::min(part.trace->tokens(), part.first + part.count);
    const std::int64_t size = large ? std::max(kPiece, part.trace->tokens() / kLargePieces + 1) : kPiece;
    for (std::int64_t t = part.first; t < last; t += size) pieces.push_back({&part, t, std::min(last, t + size), {}});
  }
  std::atomic<bool> stopped = false;
  parallel_for(0, pieces.size(), [&](std::size_t i) {
    if (stopped || (options.stop && (*options.stop)())) {
      stopped = true;
      return;
    }
    pieces[i].tally = Walk(placed).tokens(*pieces[i].from->trace, pieces[i].begin, pieces[i].end);
  });
  if (stopped) return std::nullopt;
  Tally total;
  for (const Piece& piece : pieces) total.add(piece.tally, piece.from->weight);
  return total;
}

}  // namespace coterie
