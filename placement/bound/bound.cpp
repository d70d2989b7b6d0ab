#include "placement/bound/bound.hpp"

#include "placement/bound/dual_certificate.hpp"
#include "placement/bound/pair_bound.hpp"
#include "placement/bound/row_facets.hpp"
#include "placement/bound/traffic_bound.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <sstream>
#include <utility>

namespace coterie {
namespace {

constexpr double kFitting = 0.7;      // share of the time in which the traffic bound chooses its facets
constexpr double kChoosing = 0.1;     // share of the time in which tokens choose again in one round
constexpr double kLeastShare = 0.02;  // of the tokens that choose again in a round
constexpr int kPatience = 20;         // rounds
constexpr int kRound = 10;            // iterations between two looks at the bound
constexpr double kRoundSeconds = 2;   // or so long
constexpr double kProving = 3;        // iterations that proving the bound in the end takes as long as
constexpr double kProgress = 1e-4;    // of the gap to the best placement, in so many rounds, or it is enough

/// When to end: the gap is small enough, the time is up, someone says so, or nothing moves any more.
class Pace {
 public:
  Pace(Objective objective, double value, const BoundOptions& options)
      : upper_(objective == Objective::affinity), value_(value), options_(options) {}

  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  [[nodiscard]] bool stopped() const {
    return (options_.stop && *options_.stop) || seconds() + kProving * each_ >= options_.time_limit;
  }
  [[nodiscard]] bool close(double bound) const {
    return std::abs(bound - value_) <= options_.gap * std::abs(value_) || (upper_ ? bound <= value_ : bound >= value_);
  }
  /// One more round ended with this bound.
  [[nodiscard]] bool stalls(double bound) {
    const double better = upper_ ? best_ - bound : bound - best_;
    if (rounds_ == 0 || better > kProgress * std::abs(bound - value_)) {
      best_ = bound;
      rounds_ = 0;
    }
    return ++rounds_ > kPatience;
  }
  void restart() { rounds_ = 0; }
  /// Iterations until the next look: ten, or as many as fit two seconds.
  template <typename Search>
  void round(Search& search) {
    const double begin = seconds();
    for (int i = 1;; ++i) {
      const bool last = i == kRound || seconds() - begin + 2 * each_ > kRoundSeconds || stopped();
      search.iterate(last);
      each_ = (seconds() - begin) / i;
      if (last) return;
    }
  }
  void tell(double bound, int iterations) {
    if (!options_.progress || seconds() - told_ < 1) return;
    told_ = seconds();
    std::ostringstream line;
    line.precision(4);
    line << "bound " << bound << ", best placement " << value_ << ", " << iterations << " iterations";
    options_.progress(line.str());
  }

 private:
  bool upper_;
  double value_;
  const BoundOptions& options_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double best_ = 0;
  int rounds_ = 0;
  double told_ = 0;
  double each_ = 0;  // seconds of an iteration
};

void iterate(PairBound& pairs, Pace& pace, const std::function<double(double)>& value_of) {
  for (;;) {
    const double bound = value_of(pairs.bound());
    pace.tell(bound, pairs.iterations());
    if (pace.close(bound) || pace.stopped() || pace.stalls(bound)) return;
    pace.round(pairs);
  }
}

template <typename Search>
Bound finished(const Search& search, double proven, const Pace& pace) {
  return {.value = proven,
          .kind = search.kind(),
          .seconds = pace.seconds(),
          .dual = std::make_shared<DualCertificate>(search.certificate())};
}

Bound affinity_bound(const Problem& problem, double value, const BoundOptions& options) {
  Pace pace(problem.objective, value, options);
  PairBound pairs(problem, options.threads, options.start);
  const auto same = [](double share) { return share; };
  iterate(pairs, pace, same);
  return finished(pairs, pairs.proven(), pace);
}

/// One expert a token: rows are the pairs of experts that don't share a rank, and the way from home to the first.
Bound top_1_bound(const Problem& problem, double value, const BoundOptions& options) {
  Pace pace(problem.objective, value, options);
  PairBound pairs(problem, options.threads, options.start);
  const double dearest = std::max(problem.ranks() > problem.topology.nodes() ? problem.prices.inside_node : 0,
                                  problem.topology.nodes() > 1 ? problem.prices.between_nodes : 0);
  const auto load = problem.statistics.load_at(0);
  const double first =
      std::accumulate(load.begin(), load.end(), 0.0) * RowFacets(problem, row_rule(problem, 0), 1).of(1)[0].constant;
  const auto rows = [&](double share) {
    return std::max(0.0, dearest * (1 - share) * pairs.total() + first) * (1 - 1e-12) /
           (problem.statistics.tokens * problem.layers());
  };
  iterate(pairs, pace, rows);
  return finished(pairs, rows(pairs.proven()), pace);
}

Bound traffic_bound(const Problem& problem, double value, const BoundOptions& options) {
  Pace pace(problem.objective, value, options);
  const auto stop = [&] { return pace.stopped(); };
  TrafficBound traffic(problem, options.threads, stop, options.start, !pace.stopped());
  bool fitting = true;
  double choosing = 0;  // seconds in which all tokens choose again, as far as is known
  for (int round = 1;; ++round) {
    pace.round(traffic);
    const double bound = traffic.bound();
    pace.tell(bound, traffic.iterations());
    const bool stalls = pace.stalls(bound);
    if (pace.close(bound) || pace.stopped() || (!fitting && stalls)) break;
    if (!fitting) continue;
    if (stalls || pace.seconds() > kFitting * options.time_limit) {
      fitting = false;
      pace.restart();
    } else {
      // A share of the tokens that leaves time for iterations; of very many tokens a few first.
      double share = std::max(kLeastShare, 2.0 / (round + 2));
      if (choosing > 0) share = std::min(share, kChoosing * options.time_limit / choosing);
      if (choosing == 0 && traffic.is_large()) share = kLeastShare;
      const double begin = pace.seconds();
      traffic.choose_again(share);
      choosing = (pace.seconds() - begin) / share;
    }
  }
  double proven = traffic.proven();
  if (proven < traffic.fewest_ranks() * (1 - 1e-9)) {
    traffic.count_fewest_ranks();
    proven = traffic.proven();
  }
  return finished(traffic, proven, pace);
}

/// A layer's heaviest rank has at least the mean, and at least what its heaviest expert brings along.
Bound load_bound(const Problem& problem) {
  double sum = 0;
  for (int l = 0; l < problem.layers(); ++l) {
    const auto load = problem.statistics.load_at(l);
    std::vector<double> sorted(load.begin(), load.end());
    std::sort(sorted.begin(), sorted.end());
    const double mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) / problem.ranks();
    double heaviest = mean;
    if (problem.replicas == 0) {
      double company = 0;
      for (int i = 0; i + 1 < problem.fewest(); ++i) company += sorted[i];
      heaviest = std::max(heaviest, sorted.back() + company);
    }
    sum += mean > 0 ? heaviest / mean : 1;
  }
  return {.value = sum / problem.layers() * (1 - 1e-12), .kind = "heaviest expert", .seconds = 0};
}

}  // namespace

Bound prove_bound(const Problem& problem, double value, const BoundOptions& options) {
  switch (problem.objective) {
    case Objective::affinity:
      return affinity_bound(problem, value, options);
    case Objective::load:
      return load_bound(problem);
    case Objective::traffic:
      break;
  }
  int most = 1;
  for (const WeightedTrace& part : problem.traces)
    most = std::max(most, problem.top > 0 ? std::min(problem.top, part.trace->top_k) : part.trace->top_k);
  return most == 1 && tokens_stay(problem) ? top_1_bound(problem, value, options)
                                           : traffic_bound(problem, value, options);
}

}  // namespace coterie
