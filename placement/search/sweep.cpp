#include "placement/search/sweep.hpp"

#include "placement/parallel.hpp"
#include "placement/search/annealing.hpp"
#include "placement/search/ledger.hpp"
#include "placement/search/transport.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace coterie {
namespace {

constexpr int kUnits = 16;  // searches of a round: a fixed number, so that rounds don't depend on the machine
constexpr std::int64_t kLargePass = 8000;  // proposals of a pass over the layers; larger problems get shorter rounds
constexpr std::size_t kElite = 8;          // placements that are remembered
constexpr int kRanksOfLargePools = 16;     // beyond, pairs of states cost too much to compare
constexpr std::int64_t kTokens = 6000;     // the true cost of traffic is counted on so many
constexpr std::int64_t kFewTokens = 512;   // and by single searches on so many
constexpr int kExpertsToTryAll = 96;       // beyond, only the most promising exchanges are tried on tokens
constexpr int kPatience = 8;               // rounds without any gain after which the search ends
constexpr double kCold = 0.02;             // temperatures are relative to a typical exchange's change
constexpr double kPenalty = 20;  // of a row above the limit, relative to a typical exchange's change of cost per row
constexpr double kHard = 1e6;    // times the penalty: no gain makes up for a row above the limit

// For traffic: how much a pair of neighbouring layers counts beside a pair of one layer. No one value is best: what
// helps is that the searches of a round differ.
constexpr std::array<double, 4> kAffinityParts{0.03, 0.1, 0.2, 0.4};

}  // namespace

Sweep::Sweep(const Problem& problem, const SolveOptions& options, Valued start,
             std::chrono::steady_clock::time_point end)
    : problem_(problem),
      options_(options),
      stop_([&options, end] { return std::chrono::steady_clock::now() >= end || (options.stop && *options.stop); }),
      tokens_(problem.objective == Objective::traffic),
      best_(std::move(start)) {
  for (int l = 0; l < problem.layers(); ++l)
    if (!problem.is_fixed(l)) free_.push_back(l);
  if (!tokens_) {
    weights_.push_back(std::make_shared<PairWeights>(problem.statistics, 1, 0));
    pairs_ = std::make_unique<PairModel>(problem, weights_.front());
  } else {
    if (problem.domain == Domain::rank)
      weights_.push_back(std::make_shared<PairWeights>(problem.statistics, 0, 1));
    else
      for (const double part : kAffinityParts)
        weights_.push_back(std::make_shared<PairWeights>(problem.statistics, part, 1));
    sample_ = std::make_shared<TokenSample>(problem, kTokens);
    rows_ = std::make_unique<TrafficModel>(problem, sample_);
  }
  calibrate();
  keep(best_.assignment);
}

// Scales of temperatures and penalties: what an exchange changes in a random placement.
void Sweep::calibrate() {
  const Assignment random = random_start(options_.seed);
  Ledger ledger(problem_);
  const auto scale = [&](SearchModel& model, int samples) {
    model.restart(random);
    ledger.restart(random);
    SplitMix numbers(options_.seed);
    const Typical typical = typical_change({model, ledger, free_, 0, stop_}, numbers, samples);
    return Scale{typical.cost, typical.rows > 0 ? kPenalty * typical.cost / typical.rows : 0};
  };
  for (const auto& weights : weights_) {
    PairModel model(problem_, weights);
    scale_.push_back(scale(model, 2000));
  }
  if (tokens_) token_scale_ = scale(*rows_, 100);
}

Sweep::Valued Sweep::run() {
  if (free_.empty() || problem_.ranks() == 1) return best_;
  for (int number = 0, idle = 0; idle < kPatience && !stop_(); ++number) {
    idle = round(number) ? 0 : idle + 1;
    if (!options_.progress) continue;
    std::array<char, 80> line{};
    std::snprintf(line.data(), line.size(), "sweep: round %d, %s %.5g", number + 1,
                  std::string(name_of(problem_.objective)).c_str(), best_.value);
    options_.progress(line.data());
  }
  return best_;
}

// Short searches first, so that there is something to show; then longer ones, from new starts and from the best so far
// in turns.
std::vector<Sweep::Unit> Sweep::units_of(int number) const {
  constexpr std::array<double, 4> kReheat{0.15, 0.3, 0.45, 0.6};
  constexpr std::array<double, 4> kTokenHeat{0.05, 0.1, 0.2, 1};
  const bool fresh = number < 3 || number % 3 == 2;
  const bool large = is_large();
  const int count = large ? kUnits / 2 : kUnits;
  const int fresh_passes = large ? 50 << std::min(number, 6) : 100 << std::min(2 * number, 6 + number / 6);
  const int more_passes = large ? 100 << std::min(number / 3, 3) : 2000 << std::min(number / 6, 3);
  const int token_passes = 30 << std::min(number / 6, 3);
  std::vector<Unit> units;
  for (int u = 0; u < count; ++u) {
    const std::uint64_t seed =
        options_.seed + static_cast<std::uint64_t>(number) * 1'000'003 + static_cast<std::uint64_t>(u) * 7919;
    const std::size_t weights = static_cast<std::size_t>(u) % weights_.size();
    if (tokens_ && !large && number >= 2 && u % 4 == 3)
      units.push_back({Unit::Kind::tokens, seed, 0, kTokenHeat[u / 4], token_passes});
    else if (fresh)
      units.push_back({Unit::Kind::fresh, seed, weights, problem_.balance ? 2.0 : 1.0, fresh_passes});
    else
      units.push_back({Unit::Kind::reheat, seed, weights, kReheat[u / 4], more_passes});
  }
  return units;
}

// What a stopped round had found is dropped: a longer run would not have seen it alone, and must not end worse.
bool Sweep::round(int number) {
  const double before = best_.value;
  const std::vector<Unit> units = units_of(number);
  std::vector<Assignment> found(units.size());
  parallel_for(options_.threads, units.size(), [&](std::size_t u) { found[u] = search(units[u]); });
  if (stop_()) return false;
  std::erase_if(found, [](const Assignment& a) { return a.empty(); });

  std::vector<Assignment> pool = found;
  for (const Found& elite : elite_) pool.push_back(elite.assignment);
  if (problem_.ranks() <= kRanksOfLargePools) pool.insert(pool.end(), recent_.begin(), recent_.end());
  recent_ = std::move(found);
  if (free_.size() == static_cast<std::size_t>(problem_.layers())) {
    const ChainCost& cost = tokens_ ? static_cast<const ChainCost&>(*rows_) : *pairs_;
    Assignment joined = best_of_pool(problem_, cost, pool, options_.threads, stop_);
    if (joined.empty()) return false;
    keep(std::move(joined));
  } else {
    for (const Assignment& assignment : pool) keep(assignment);
  }
  // On large problems it gains little and takes as long as a round.
  if (!is_large() || number % 4 == 3) {
    Assignment better_yet = polished(elite_.front().assignment);
    if (!stop_()) keep(std::move(better_yet));
  }
  return better(problem_.objective, best_.value, before);
}

// Empty when it was stopped before the end, or did not come to keep the limits.
Assignment Sweep::search(const Unit& unit) const {
  const Assignment from = unit.kind == Unit::Kind::fresh ? random_start(unit.seed) : elite_.front().assignment;
  if (unit.kind == Unit::Kind::tokens) {
    // Other tokens for every search: what they agree on is not chance.
    const double phase = SplitMix(unit.seed).unit();
    TrafficModel model(problem_, std::make_shared<TokenSample>(problem_, kFewTokens, phase));
    return settle(model, unit, from) ? model.assignment() : Assignment();
  }
  PairModel model(problem_, weights_[unit.weights]);
  if (!settle(model, unit, from)) return {};
  if (!tokens_) improve_layers(model);
  return stop_() ? Assignment() : model.assignment();
}

std::int64_t Sweep::pass() const {
  return 2 * static_cast<std::int64_t>(problem_.experts()) * static_cast<std::int64_t>(free_.size());
}

bool Sweep::is_large() const {
  return pass() > kLargePass;
}

bool Sweep::settle(SearchModel& model, const Unit& unit, const Assignment& from) const {
  Ledger ledger(problem_);
  model.restart(from);
  ledger.restart(from);
  const Scale& scale = unit.kind == Unit::Kind::tokens ? token_scale_ : scale_[unit.weights];
  const Search search{model, ledger, free_, scale.penalty, stop_};
  SplitMix random(unit.seed);
  anneal(search, {unit.passes * pass(), unit.heat * scale.cost, kCold * scale.cost}, random);
  descend(search);
  if (problem_.balance) {
    if (!repair(search, random, 0.1 * scale.cost)) return false;
    descend({model, ledger, free_, kHard * scale.penalty, stop_});
  }
  return !stop_();
}

Assignment Sweep::random_start(std::uint64_t seed) const {
  SplitMix random(seed);
  Assignment assignment = contiguous_assignment(problem_);
  for (const int l : free_)
    for (int e = problem_.experts() - 1; e > 0; --e) std::swap(assignment[l][e], assignment[l][random.below(e + 1)]);
  for (int l = 0; l < problem_.layers(); ++l)
    if (problem_.is_fixed(l)) assignment[l] = problem_.fixed[l];
  return assignment;
}

// Descent on the true cost.
Assignment Sweep::polished(const Assignment& assignment) const {
  Ledger ledger(problem_);
  ledger.restart(assignment);
  if (!tokens_) {
    PairModel model(problem_, weights_.front());
    model.restart(assignment);
    descend({model, ledger, free_, kHard * scale_.front().penalty, stop_});
    improve_layers(model);
    return model.assignment();
  }
  TrafficModel model(problem_, sample_);
  model.restart(assignment);
  const Search search{model, ledger, free_, kHard * token_scale_.penalty, stop_, options_.threads};
  if (problem_.experts() <= kExpertsToTryAll) {
    descend(search);
  } else {
    const auto most = static_cast<std::size_t>(problem_.experts());
    descend(search, [&](int layer) {
      return promising_exchanges(problem_, *weights_.front(), model.assignment(), layer, most);
    });
  }
  return model.assignment();
}

// Every layer as well as it can be for the layers around it, until no layer gains. Without a load limit this is a
// transportation problem, and solved exactly.
void Sweep::improve_layers(PairModel& model) const {
  if (problem_.balance) return;
  std::vector<double> gain(static_cast<std::size_t>(problem_.experts()) * problem_.ranks());
  for (bool any = true; any && !stop_();) {
    any = false;
    for (const int l : free_) {
      for (int e = 0; e < problem_.experts(); ++e)
        for (int r = 0; r < problem_.ranks(); ++r)
          gain[static_cast<std::size_t>(e) * problem_.ranks() + r] = model.gain(l, r, e);
      const std::vector<int> best = best_transport(gain, problem_.ranks(), problem_.fewest(), problem_.most());
      double now = 0, then = 0;
      for (int e = 0; e < problem_.experts(); ++e) {
        now += gain[static_cast<std::size_t>(e) * problem_.ranks() + model.assignment()[l][e]];
        then += gain[static_cast<std::size_t>(e) * problem_.ranks() + best[e]];
      }
      if (then <= now + 1e-6 * std::abs(now)) continue;
      any = true;
      for (int e = 0; e < problem_.experts(); ++e)
        if (model.assignment()[l][e] != best[e]) model.apply({l, e, best[e], -1});
    }
  }
}

void Sweep::keep(Assignment assignment) {
  if (!check_limits(problem_, assignment).empty()) return;
  const double cost = cost_of(assignment);
  const auto place = std::find_if(elite_.begin(), elite_.end(), [&](const Found& f) { return cost <= f.cost; });
  if (place != elite_.end() && place->cost == cost && place->assignment == assignment) return;
  if (place == elite_.begin() && !elite_.empty()) {
    // The sample may be mistaken about which is better.
    const auto value = evaluate(problem_, owners_of(assignment), stop_);
    if (value && better(problem_.objective, *value, best_.value)) best_ = {assignment, *value};
  }
  elite_.insert(place, {std::move(assignment), cost});
  if (elite_.size() > kElite) elite_.pop_back();
}

double Sweep::cost_of(const Assignment& assignment) const {
  SearchModel& model = tokens_ ? static_cast<SearchModel&>(*rows_) : *pairs_;
  model.restart(assignment);
  return model.cost();
}

}  // namespace coterie
