// What an earlier run of a job recorded: a run that goes on with the job keeps it beside its own.
#pragma once

#include "placement/trace/trace.hpp"
#include "runtime/engine/logits_recorder.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>

namespace coterie {

class EarlierRecords {
 public:
  struct Paths {
    std::filesystem::path trace;   ///< empty: none is recorded
    std::filesystem::path logits;  ///< the same
    std::filesystem::path input;   ///< the requests
  };

  /// Reads what is there where `answered` requests were before, and says on `notes` what is kept and what is missing;
  /// where none were, the job begins and there is nothing to keep. Throws InputError for a file of something else than
  /// this job: a trace that isn't like `header`, or of requests that aren't the first lines of the input any more;
  /// logits of another vocabulary.
  EarlierRecords(const Paths& paths, const Trace& header, std::int64_t vocabulary, std::size_t answered,
                 std::ostream& notes);

  /// With the sequences (of logits, which are given away: the requests) that only the earlier run has, by number. The
  /// earlier run's record of a request that it didn't finish gives way to the later one, which computed all of it.
  [[nodiscard]] Trace with(Trace later) const;
  [[nodiscard]] LogitsRecorder::Logits with(LogitsRecorder::Logits later);

 private:
  std::optional<Trace> trace_;
  LogitsRecorder::Logits logits_;
};

/// Trace::requests of a file of requests, or of its first `bytes`; empty for what is no regular file.
[[nodiscard]] std::string requests_of(const std::filesystem::path& input, std::optional<std::uint64_t> bytes = {});

}  // namespace coterie
