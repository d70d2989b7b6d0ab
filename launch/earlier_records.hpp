// What an earlier run of a job recorded: a run that goes on with the job keeps it beside its own.
#pragma once

#include "placement/trace/trace.hpp"
#include "runtime/engine/logits_recorder.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <optional>

namespace coterie {

class EarlierRecords {
 public:
  struct Paths {
    std::filesystem::path trace;   ///< empty: none is recorded
    std::filesystem::path logits;  ///< the same
  };

  /// Reads what is there where `answered` requests were before, and says on `notes` what is kept and what is missing;
  /// where none were, the job begins and there is nothing to keep. Throws InputError for a file of something else than
  /// this job: a trace that isn't like `header`, logits of another vocabulary.
  EarlierRecords(const Paths& paths, const Trace& header, std::int64_t vocabulary, std::size_t answered,
                 std::ostream& notes);

  /// With the sequences that only the earlier run has, by number. The earlier run's record of a request that it
  /// didn't finish gives way to the later one, which computed all of it.
  [[nodiscard]] Trace with(Trace later) const;
  [[nodiscard]] LogitsRecorder::Logits with(LogitsRecorder::Logits later) const;

 private:
  std::optional<Trace> trace_;
  LogitsRecorder::Logits logits_;
};

}  // namespace coterie
