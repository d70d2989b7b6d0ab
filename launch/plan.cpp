// `coterie plan`: traces and a topology in, a plan with its certificate and report out.
#include "launch/command.hpp"
#include "launch/plan_inputs.hpp"
#include "launch/plan_options.hpp"
#include "launch/plan_summary.hpp"
#include "launch/search_progress.hpp"
#include "placement/bound/bound.hpp"
#include "placement/check/optimum_check.hpp"
#include "placement/input_error.hpp"
#include "placement/number_text.hpp"
#include "placement/report/report.hpp"
#include "placement/solvers/dp_solver.hpp"
#include "placement/solvers/solver.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <iostream>
#include <string_view>

namespace coterie {
namespace {

std::atomic<bool> g_stop = false;
std::atomic<bool> g_reading = true;

/// The first signal lets the search end with the best so far, or ends the process where there is none yet; the second
/// ends it as usual.
void stop_at_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) {
    g_stop = true;
    if (!g_reading) return;
    constexpr std::string_view kWords =
        "\ncoterie: stopped by a signal while the traces were read; there is no plan yet\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, kWords.data(), kWords.size());
    _exit(kStopped);
  };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

// Shares of the time that is left when the traces are read. What one step leaves, the next ones have.
constexpr double kSearch = 0.5;  // with a bound to prove afterwards
constexpr double kWithoutLimit = 0.1;
constexpr double kFigures = 1;  // times that a plan is measured when all searches are over
constexpr double kReport = 8;   // and for a report
constexpr double kCompare = 4;  // and must be left for it, before what the load limit costs is looked for

class Planner {
 public:
  explicit Planner(const PlanOptions& options)
      : options_(options), in_(read_plan_inputs(options)), progress_(std::cerr) {}

  int run() {
    g_reading = false;
    look_at_baseline();
    solve();
    prove();
    compare();
    certify();
    write();
    progress_.clear();
    std::cout << plan_summary(in_, data_);
    if (!g_stop) return kDone;
    std::cerr << "coterie: stopped by a signal; the plan is the best that was found until then\n";
    return kStopped;
  }

 private:
  [[nodiscard]] double elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  /// Seconds for searches and bounds. What comes after them has its own.
  [[nodiscard]] double left() const { return std::max(0.0, options_.time_limit - reserve_ - elapsed()); }

  /// The placement that all are compared with, and what measuring one takes.
  void look_at_baseline() {
    const double begin = elapsed();
    data_.before = owners_of(contiguous_assignment(in_.problem));
    add_compared("contiguous", data_.before, 0);
    measuring_ = elapsed() - begin;
    reserve_ = (kFigures + (options_.report.empty() ? 0 : kReport)) * measuring_;
    time_ = left();
  }

  [[nodiscard]] SolveOptions solve_options(double time_limit) {
    return {.time_limit = time_limit,
            .gap = options_.gap,
            .seed = options_.seed,
            .threads = options_.threads,
            .stop = &g_stop,
            .soft_balance = !options_.strict_balance,
            .start = std::nullopt,
            .progress = [this](std::string_view line) { progress_.line(line); }};
  }

  void solve() {
    const double share = options_.bound ? kSearch : finds_price_of_limit() ? 1 - kWithoutLimit : 1;
    const bool soft = !options_.strict_balance && (in_.problem.replicas > 0 || !keeps_limit());
    Problem asked = in_.problem;
    if (soft && !searches()) asked.balance.reset();
    solution_ = make_solver(options_.solver)->solve(asked, solve_options(share * time_));
    owners_ = solution_.owners.empty() ? owners_of(solution_.assignment) : solution_.owners;
    Assessment found = *assess(in_.problem, owners_);
    if (soft && !found.broken.empty()) raise_limit(found.figures.load_worst);
    if (solution_.bound) data_.bounds.push_back(*solution_.bound);
    data_.model = in_.model;
    data_.layer_ids = in_.layer_ids;
    data_.top_k = in_.top_k;
    data_.problem = &in_.problem;
    data_.after = owners_;
    data_.sources = in_.sources;
    data_.warnings = in_.warnings;
    // The limit may have been raised since.
    data_.compared.front().note = check_limits(in_.problem, data_.before).empty() ? "" : "breaks the limits";
    data_.compared.push_back(
        {.name = solution_.solver, .figures = found.figures, .seconds = solution_.seconds, .note = "", .chosen = true});
    if (in_.left_out) leave_out(found.figures);
  }

  [[nodiscard]] bool searches() const { return options_.solver == "auto" || options_.solver == "sweep"; }
  /// The others know no load limit.
  [[nodiscard]] bool keeps_limit() const {
    return searches() || options_.solver == "dp" || options_.solver == "ilp" || options_.solver == "random";
  }
  [[nodiscard]] bool finds_price_of_limit() const {
    return in_.problem.balance && searches() && in_.problem.objective != Objective::load;
  }

  /// The usual limit, where even the replicas did not help, or the solver looks at none.
  void raise_limit(double worst) {
    const std::string why = keeps_limit()
                                ? "could not be kept with " + std::to_string(in_.problem.replicas) + " replicas a layer"
                                : "is not kept by --solver " + options_.solver;
    in_.warnings.push_back("the load limit of " + fixed(*in_.problem.balance, 2) + " " + why +
                           "; it was raised to what was found (--balance sets one, or none)");
    in_.problem.balance = std::ceil(worst * 1000 + 1) / 1000;
  }

  /// A bound for what was found, in the time that is left but for the comparisons.
  void prove() {
    if (!options_.bound || g_stop) return;
    if (solution_.bound && std::abs(solution_.bound->value - solution_.value) <= options_.gap * solution_.value) return;
    const double time_limit = std::max(0.0, left() - (finds_price_of_limit() ? kWithoutLimit * time_ : 0));
    Bound bound = prove_bound(in_.problem, solution_.value,
                              {.time_limit = time_limit,
                               .gap = options_.gap,
                               .threads = options_.threads,
                               .stop = &g_stop,
                               .start = &solution_.assignment,
                               .progress = [this](std::string_view line) { progress_.line(line); }});
    // The same kind again says nothing new, unless it came further.
    if (solution_.bound && solution_.bound->kind == bound.kind) {
      if (!better(in_.problem.objective, solution_.bound->value, bound.value)) return;
      data_.bounds.clear();
    }
    data_.bounds.push_back(std::move(bound));
  }

  [[nodiscard]] const Bound* best_bound() const {
    const Bound* best = nullptr;
    for (const Bound& bound : data_.bounds)
      if (!best || better(in_.problem.objective, best->value, bound.value)) best = &bound;
    return best;
  }

  void add_compared(const std::string& name, const Owners& owners, double seconds) {
    const Assessment found = *assess(in_.problem, owners);
    data_.compared.push_back({.name = name,
                              .figures = found.figures,
                              .seconds = seconds,
                              .note = found.broken.empty() ? "" : "breaks the limits"});
  }

  /// What the load limit costs, and what others reach.
  void compare() {
    if (finds_price_of_limit() && !g_stop && left() >= kCompare * measuring_) {
      Problem free = in_.problem;
      free.balance.reset();
      SolveOptions options = solve_options(std::min(left(), kWithoutLimit * time_));
      options.start = solution_.assignment;
      const bool exact = why_dp_does_not_fit(free).empty();  // in milliseconds, where sweep takes all its time
      const Solution other = (exact ? make_dp_solver() : make_sweep_solver())->solve(free, options);
      // In the little time that it has it may not come as far.
      if (better(free.objective, other.value, solution_.value)) {
        add_compared("no load limit", other.owners.empty() ? owners_of(other.assignment) : other.owners, other.seconds);
        data_.compared.back().note.clear();
      }
    }
    if (!options_.compare) return;
    for (const char* name : {"round-robin", "random", "balanced", "bipartition", "eplb"}) {
      if (g_stop) return;
      Problem problem = in_.problem;
      problem.balance.reset();  // they know none; whether they keep it is a note
      const Solution other = make_solver(name)->solve(problem, solve_options(kWithoutLimit * time_));
      add_compared(name, other.owners.empty() ? owners_of(other.assignment) : other.owners, other.seconds);
    }
  }

  void leave_out(const Figures& fitted) {
    Holdout& held = data_.holdout.emplace();
    held.share = options_.holdout;
    held.tokens = in_.left_out->statistics.tokens;
    held.fitted = fitted;
    held.left_out = measure(*in_.left_out, owners_);
    held.baseline_left_out = measure(*in_.left_out, data_.before);
    if (const std::string why = why_fit_does_not_carry(in_, held); !why.empty()) data_.warnings.push_back(why);
  }

  void certify() {
    const Problem& problem = in_.problem;
    Certificate& c = data_.certificate;
    c.objective = name_of(problem.objective);
    c.domain = name_of(problem.domain);
    c.price_inside_node = problem.prices.inside_node;
    c.price_between_nodes = problem.prices.between_nodes;
    c.balance = problem.balance.value_or(0);
    c.top = problem.top;
    c.by_gate = in_.by_gate;
    c.holdout = options_.holdout;
    c.value = solution_.value;
    c.baseline = data_.compared.front().figures.value;
    c.solver = solution_.solver;
    c.seed = options_.seed;
    c.seconds = elapsed();
    const Bound* best = best_bound();
    if (!best) return;
    if (const std::string why = why_not_checkable(*best); !why.empty()) data_.warnings.push_back(why);
    c.bound = best->value;
    c.bound_kind = best->kind;
    c.gap = c.value != 0 ? std::abs(c.bound - c.value) / c.value : std::abs(c.bound);
  }

  /// Empty, or why others have to take the solver's word for a bound.
  [[nodiscard]] std::string why_not_checkable(const Bound& bound) const {
    const Problem& p = in_.problem;
    const std::string word = "the bound is the word of the solver " + bound.kind + ": coterie inspect --check ";
    const std::string instead = "; --solver sweep gives one with dual values (--certificate), which can be checked";
    if (bound.kind == "ilp") return word + "has no dual values to prove it by" + instead;
    if (bound.kind != "dp") return {};
    const OptimumLimits limits{.fewest = p.fewest(), .most = p.most(), .balance = p.balance.value_or(0)};
    if (can_check_optimum(p.topology, p.layers(), p.experts(), std::string(name_of(p.objective)), limits)) return {};
    return word + "can't go through so many placements to find the optimum again" + instead;
  }

  void write() const {
    if (!options_.output.empty()) {
      Plan plan;
      plan.model = in_.model;
      plan.layer_ids = in_.layer_ids;
      plan.experts = in_.problem.experts();
      plan.top_k = in_.top_k;
      plan.topology = in_.problem.topology;
      plan.slots_per_rank = in_.problem.slots();
      plan.physical_to_logical = slots_of(in_.problem, owners_);
      plan.certificate = data_.certificate;
      plan.sources = in_.sources;
      write_plan(options_.output, plan);
    }
    if (!options_.certificate.empty()) {
      if (const Bound* best = best_bound()) write_certificate(options_.certificate, in_.problem, *best);
    }
    if (!options_.report.empty()) write_report(options_.report, data_);
  }

  const PlanOptions& options_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double measuring_ = 0;  ///< seconds that measuring a plan takes
  double reserve_ = 0;    ///< seconds for what comes after searches and bounds
  double time_ = 0;       ///< seconds that the searches and bounds have together
  PlanInputs in_;
  SearchProgress progress_;
  Solution solution_;
  Owners owners_;
  ReportData data_;
};

int run_plan(std::span<const char* const> arguments) {
  const auto options = parse_plan_options(arguments);
  if (!options) {
    std::cout << plan_help();
    return kDone;
  }
  stop_at_signals();
  return Planner(*options).run();
}

}  // namespace

const Command kPlan{"plan", "decide which expert lives on which rank, from traces; with a proof of how good it is",
                    run_plan};

}  // namespace coterie
