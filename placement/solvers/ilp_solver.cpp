// The integer program of a placement, given to HiGHS through its C interface.
#include "placement/input_error.hpp"
#include "placement/solvers/baselines.hpp"
#include "placement/solvers/integer_program.hpp"
#include "placement/solvers/solver.hpp"

#include <interfaces/highs_c_api.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace coterie {
namespace {

// What HiGHS calls optimal or a bound is so within its tolerances: the bound is moved by this share of all weight.
constexpr double kTolerance = 2e-6;
constexpr double kSearch = 0.1;  // share of the time for a first solution

struct DestroyHighs {
  void operator()(void* highs) const { Highs_destroy(highs); }
};

void check(HighsInt status, const char* what) {
  if (status == kHighsStatusError) throw std::runtime_error(std::string("HiGHS: ") + what + " failed");
}

class HighsRun {
 public:
  HighsRun(const IntegerProgram& program, const SolveOptions& options)
      : options_(options), unit_(program.unit), highs_(Highs_create()) {
    const auto set = [&](const char* option, double value) {
      check(Highs_setDoubleOptionValue(highs_.get(), option, value), option);
    };
    check(Highs_setBoolOptionValue(highs_.get(), "output_flag", 0), "output_flag");
    set("time_limit", std::max(0.0, options.time_limit * (options.start ? 1 : 1 - kSearch)));
    set("mip_rel_gap", std::max(0.0, options.gap));
    set("mip_abs_gap", 0);
    // HiGHS knows seeds of 31 bits.
    check(Highs_setIntOptionValue(highs_.get(), "random_seed", static_cast<HighsInt>(options.seed & 0x7fffffffU)),
          "random_seed");
    check(Highs_setIntOptionValue(highs_.get(), "threads", options.threads), "threads");
    const std::vector<HighsInt> starts(program.row_start.begin(), program.row_start.end() - 1);
    const std::vector<HighsInt> columns(program.column.begin(), program.column.end());
    std::vector<HighsInt> kinds(program.columns(), kHighsVarTypeContinuous);
    std::fill_n(kinds.begin(), program.integers, kHighsVarTypeInteger);
    check(Highs_passMip(highs_.get(), program.columns(), program.rows(), static_cast<HighsInt>(columns.size()),
                        kHighsMatrixFormatRowwise, kHighsObjSenseMaximize, program.constant, program.cost.data(),
                        program.lower.data(), program.upper.data(), program.row_lower.data(), program.row_upper.data(),
                        starts.data(), columns.data(), program.entry.data(), kinds.data()),
          "reading the program");
    check(Highs_setCallback(highs_.get(), &HighsRun::called, this), "setting a callback");
    for (const HighsInt kind : {kHighsCallbackMipInterrupt, kHighsCallbackSimplexInterrupt, kHighsCallbackMipLogging})
      check(Highs_startCallback(highs_.get(), kind), "starting a callback");
  }

  void start(const std::vector<double>& columns) {
    check(Highs_setSolution(highs_.get(), columns.data(), nullptr, nullptr, nullptr), "setting a first solution");
  }
  void run() { check(Highs_run(highs_.get()), "solving"); }

  [[nodiscard]] bool infeasible() const { return Highs_getModelStatus(highs_.get()) == kHighsModelStatusInfeasible; }
  [[nodiscard]] bool has_solution() const {
    HighsInt status = kHighsSolutionStatusNone;
    check(Highs_getIntInfoValue(highs_.get(), "primal_solution_status", &status), "asking for a solution");
    return status == kHighsSolutionStatusFeasible;
  }
  [[nodiscard]] std::vector<double> solution() const {
    std::vector<double> columns(Highs_getNumCol(highs_.get()));
    check(Highs_getSolution(highs_.get(), columns.data(), nullptr, nullptr, nullptr), "reading the solution");
    return columns;
  }
  /// Of cost * x + constant; infinite when there is none yet.
  [[nodiscard]] double bound() const {
    double bound = 0;
    check(Highs_getDoubleInfoValue(highs_.get(), "mip_dual_bound", &bound), "asking for the bound");
    return bound;
  }

 private:
  static void called(int kind, const char*, const HighsCallbackDataOut* out, HighsCallbackDataIn* in, void* self) {
    const SolveOptions& options = static_cast<HighsRun*>(self)->options_;
    if (kind == kHighsCallbackMipLogging) {
      if (!options.progress || !std::isfinite(out->mip_dual_bound)) return;
      const double unit = static_cast<HighsRun*>(self)->unit_;
      std::ostringstream line;
      line.precision(5);
      line << "ilp: best " << out->mip_primal_bound * unit << ", bound " << out->mip_dual_bound * unit << ", "
           << out->mip_node_count << " nodes";
      options.progress(line.str());
    } else if (in && options.stop && *options.stop) {
      in->user_interrupt = 1;
    }
  }

  const SolveOptions& options_;
  double unit_;
  std::unique_ptr<void, DestroyHighs> highs_;
};

class IlpSolver final : public Solver {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "ilp"; }

  [[nodiscard]] Solution solve(const Problem& problem, const SolveOptions& options) const override {
    const auto begin = std::chrono::steady_clock::now();
    if (const std::string broken = check_feasible(problem); !broken.empty()) throw InputError(broken);
    if (const std::string reason = why_no_integer_program(problem); !reason.empty())
      throw InputError("solver ilp: " + reason +
                       ": found no integer program of pairs, expected --objective affinity "
                       "without replicas; try --solver auto");
    const PairProgram pairs(problem);
    HighsRun run(pairs.program(), options);
    std::optional<Assignment> known = first_solution(problem, options);
    if (known && !check_limits(problem, *known).empty()) known.reset();
    if (known) run.start(pairs.columns(*known));
    run.run();
    if (run.infeasible())
      throw InputError("infeasible: load limit: no placement keeps it together with the slots and the fixed layers");

    std::optional<Solution> best;
    if (known) best = finished(problem, *known, name(), begin);
    if (run.has_solution()) {
      const Assignment found = pairs.assignment(run.solution());
      if (check_limits(problem, found).empty()) {
        Solution solution = finished(problem, found, name(), begin);
        if (!best || better(problem.objective, solution.value, best->value)) best = std::move(solution);
      }
    }
    if (!best) throw InputError("solver ilp: found no placement in the time given, expected more --time-limit");
    best->interrupted = options.stop && *options.stop;
    best->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const double bound = run.bound() * pairs.program().unit + kTolerance;
    if (std::isfinite(bound) && bound < 1e6)
      best->bound =
          Bound{.value = std::min(1.0, std::max(bound, best->value)), .kind = "ilp", .seconds = best->seconds};
    return std::move(*best);
  }

 private:
  /// The start that was given, else what a short search finds: HiGHS by itself finds little.
  static std::optional<Assignment> first_solution(const Problem& problem, const SolveOptions& options) {
    if (options.start) return options.start;
    SolveOptions search = options;
    search.time_limit *= kSearch;
    try {
      return make_sweep_solver()->solve(problem, search).assignment;
    } catch (const InputError&) {
      return std::nullopt;  // a limit that the search can't keep: HiGHS may, or prove that nothing can
    }
  }
};

}  // namespace

std::unique_ptr<Solver> make_ilp_solver() {
  return std::make_unique<IlpSolver>();
}

}  // namespace coterie
