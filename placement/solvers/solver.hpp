// The interface of placement solvers: one implementation a file, found by name.
#pragma once

#include "placement/problem.hpp"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

struct SolveOptions {
  double time_limit = 60;  ///< seconds
  double gap = 0.01;       ///< stop when the gap to a bound is this small
  std::uint64_t seed = 1;
  int groups = 1;                           ///< expert groups of the model's router, for eplb
  int threads = 0;                          ///< 0: all cores
  const std::atomic<bool>* stop = nullptr;  ///< set from a signal handler: return the best so far
  bool soft_balance = false;        ///< with replicas: exceed a load limit that can't be kept, as little as was found
  std::optional<Assignment> start;  ///< warm start
  std::function<void(std::string_view)> progress;  ///< one line now and then
};

struct DualCertificate;

/// A statement that no placement is better than `value`, and what made it.
struct Bound {
  double value = 0;
  std::string kind;  ///< "dp", "ilp", "dnn+triangles", ...
  double seconds = 0;
  std::shared_ptr<const DualCertificate> dual = nullptr;  ///< what proves it to others; null: dp, ilp
};

struct Solution {
  Assignment assignment;
  Owners owners;               ///< all ranks of every expert where the problem asks for replicas, else empty
  double value = 0;            ///< evaluate(problem, owners or assignment)
  std::optional<Bound> bound;  ///< where the solver proves one
  std::string solver;
  double seconds = 0;
  bool interrupted = false;
};

/// A solver keeps every limit of the problem (and its fixed layers) or throws InputError "infeasible: …" that names the
/// limit. Deterministic for a seed, but for the moment at which the time runs out.
class Solver {
 public:
  virtual ~Solver() = default;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  [[nodiscard]] virtual Solution solve(const Problem& problem, const SolveOptions& options) const = 0;
};

/// Names that make_solver takes, in the order of `coterie plan --help`.
[[nodiscard]] std::vector<std::string_view> solver_names();
/// Throws InputError for an unknown name, or for one that this build doesn't have (with how to get it).
[[nodiscard]] std::unique_ptr<Solver> make_solver(std::string_view name);

// One factory per implementation; solver.cpp lists them. `ilp` exists only in a build that found HiGHS.
[[nodiscard]] std::unique_ptr<Solver> make_auto_solver();
[[nodiscard]] std::unique_ptr<Solver> make_dp_solver();
[[nodiscard]] std::unique_ptr<Solver> make_ilp_solver();
[[nodiscard]] std::unique_ptr<Solver> make_sweep_solver();
[[nodiscard]] std::unique_ptr<Solver> make_bipartition_solver();
[[nodiscard]] std::unique_ptr<Solver> make_contiguous_solver();
[[nodiscard]] std::unique_ptr<Solver> make_round_robin_solver();
[[nodiscard]] std::unique_ptr<Solver> make_random_solver();
[[nodiscard]] std::unique_ptr<Solver> make_balanced_solver();
[[nodiscard]] std::unique_ptr<Solver> make_eplb_solver();

}  // namespace coterie
