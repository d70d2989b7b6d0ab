// Bounds that need no solver to finish: how good any placement of a problem can be at most.
#pragma once

#include "placement/solvers/solver.hpp"

#include <atomic>
#include <filesystem>
#include <functional>
#include <string_view>

namespace coterie {

struct BoundOptions {
  double time_limit = 60;                                    ///< seconds
  double gap = 0.01;                                         ///< stop when the gap to `value` is this small
  int threads = 0;                                           ///< 0: all cores
  const std::atomic<bool>* stop = nullptr;                   ///< set from a signal handler: the best so far
  const Assignment* start = nullptr;                         ///< a good placement: the search for prices starts there
  std::function<void(std::string_view)> progress = nullptr;  ///< one line now and then
};

/// The best bound found in the time given, for any objective; `value` is the best placement known.
/// placement/bound/bounds.md says what each kind is and why it holds. Limits on load are used, and may be left out of
/// what the bound knows where there are replicas: it holds all the same.
[[nodiscard]] Bound prove_bound(const Problem& problem, double value, const BoundOptions& options);

/// Writes the certificate of a bound: the dual values that prove it, or, without any, only its kind. Replaces `path` in
/// one step. Throws InputError when it can't be written. check_certificate.hpp reads it.
void write_certificate(const std::filesystem::path& path, const Problem& problem, const Bound& bound);

}  // namespace coterie
