#include "launch/earlier_records.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <ostream>
#include <unordered_set>

namespace coterie {
namespace {

/// Whether there is a file to keep the records of.
bool found(const std::filesystem::path& path, std::size_t answered, std::ostream& notes) {
  if (path.empty() || (std::filesystem::exists(path) && !std::filesystem::is_regular_file(path))) return false;
  const bool there = std::filesystem::exists(path);
  notes << "coterie: " << path.string() << (there ? ": goes on from" : ": will not have")
        << " what was recorded of the " << answered << " requests answered before\n";
  return there;
}

Trace read_like(const std::filesystem::path& path, const Trace& header) {
  Trace trace = read_trace(path);
  const bool alike = trace.model == header.model && trace.num_experts == header.num_experts &&
                     trace.top_k == header.top_k && trace.layer_ids == header.layer_ids &&
                     trace.gate_order == header.gate_order;
  if (!alike || trace.sequence.empty() || trace.position.empty() || trace.weights.empty()) {
    throw InputError(path.string() + ": found a trace of something else (model " + trace.model +
                     "), expected one of this job, which goes on, or no file");
  }
  return trace;
}

/// Tokens of one sequence.
struct Run {
  const Trace* trace = nullptr;
  std::int32_t sequence = 0;
  std::ptrdiff_t first = 0, end = 0;
};

void add_runs(const Trace& trace, const std::unordered_set<std::int32_t>& without, std::vector<Run>& runs) {
  for (std::ptrdiff_t first = 0, end = 0; first < std::ssize(trace.sequence); first = end) {
    const std::int32_t sequence = trace.sequence[first];
    while (end < std::ssize(trace.sequence) && trace.sequence[end] == sequence) ++end;
    if (!without.contains(sequence)) runs.push_back({&trace, sequence, first, end});
  }
}

template <class T>
void append(const std::vector<T>& from, const Run& run, std::ptrdiff_t width, std::vector<T>& to) {
  to.insert(to.end(), from.begin() + run.first * width, from.begin() + run.end * width);
}

}  // namespace

EarlierRecords::EarlierRecords(const Paths& paths, const Trace& header, std::int64_t vocabulary, std::size_t answered,
                               std::ostream& notes) {
  if (answered == 0) return;
  if (found(paths.trace, answered, notes)) trace_ = read_like(paths.trace, header);
  if (found(paths.logits, answered, notes)) logits_ = read_logits(paths.logits, vocabulary);
}

Trace EarlierRecords::with(Trace later) const {
  if (!trace_) return later;
  std::vector<Run> runs;
  add_runs(later, {}, runs);
  add_runs(*trace_, {later.sequence.begin(), later.sequence.end()}, runs);
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.sequence < b.sequence; });

  Trace out;
  out.model = later.model;
  out.num_experts = later.num_experts;
  out.top_k = later.top_k;
  out.layer_ids = later.layer_ids;
  const auto row = static_cast<std::ptrdiff_t>(later.layers()) * later.top_k;
  for (const Run& run : runs) {
    append(run.trace->experts, run, row, out.experts);
    append(run.trace->weights, run, row, out.weights);
    append(run.trace->sequence, run, 1, out.sequence);
    append(run.trace->position, run, 1, out.position);
  }
  return out;
}

LogitsRecorder::Logits EarlierRecords::with(LogitsRecorder::Logits later) const {
  later.insert(logits_.begin(), logits_.end());
  return later;
}

}  // namespace coterie
