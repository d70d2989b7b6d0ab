// The requests of an input file that still want an answer. Rank 0's.
#pragma once

#include "runtime/requests/request_reader.hpp"
#include "runtime/requests/results_file.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>

namespace coterie {

struct FeedCounts {
  std::int64_t answered_before = 0;  ///< by an earlier run
  std::int64_t failed = 0;           ///< error records, those of earlier runs included
  std::int64_t given = 0;            ///< requests given to the engine
  std::int64_t expected_work = 0;    ///< of those
};

/// Wrong lines get their error records on the way.
class RequestFeed {
 public:
  /// `results` must outlive this object. `kv_tokens` is what the KV cache of a rank holds at most.
  RequestFeed(const std::filesystem::path& input, const RequestRules& rules, std::int64_t kv_tokens,
              ResultsFile& results);

  /// The next request to answer; nothing at the end. Throws InputError when a file can't be read or written.
  [[nodiscard]] std::optional<Request> next();
  [[nodiscard]] const FeedCounts& counts() const noexcept { return counts_; }
  /// Lines of the input that are not blank, also those that came since the job began.
  [[nodiscard]] std::int64_t lines() const noexcept { return lines_; }

 private:
  RequestReader reader_;
  ResultsFile& results_;
  std::int64_t kv_tokens_;
  std::int64_t lines_;
  std::int64_t read_ = 0;  ///< of them
  FeedCounts counts_;
};

}  // namespace coterie
