// What the ranks tell one another from step to step.
#pragma once

#include "runtime/engine/dealer.hpp"
#include "runtime/engine/scheduler.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace coterie {

/// Why a job stops before its work is done, in the order of what counts more when ranks differ.
enum class Stop : std::uint8_t { none, by_signal, output_failed };

struct StepReport {
  Stop stop = Stop::none;
  bool exhausted = false;            ///< rank 0: no requests are left to deal
  std::uint64_t spill_digest = 0;    ///< of the spill caches, which all ranks know alike
  bool short_of_memory = false;      ///< all ranks are to drop their spill caches
  std::int64_t rows = 0;             ///< that went through the model in the last step
  std::int64_t finished_work = 0;    ///< expected work of the requests answered since the last report
  std::vector<RowSample> samples;    ///< the last step's, of rows that ended it on this rank
  std::vector<std::string> results;  ///< their lines of the results file
  std::vector<Dealer::Dealt> dealt;  ///< rank 0: requests for the domains

  [[nodiscard]] std::vector<std::byte> to_bytes() const;
  /// Throws std::runtime_error when the bytes end too early.
  [[nodiscard]] static StepReport from_bytes(std::span<const std::byte> bytes);
};

}  // namespace coterie
