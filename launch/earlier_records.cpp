#include "launch/earlier_records.hpp"

#include "placement/files/digest.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <fstream>
#include <ostream>
#include <span>
#include <sstream>
#include <unordered_set>
#include <vector>

namespace coterie {
namespace {

/// Whether there is a file to keep the records of.
bool found(const std::filesystem::path& path, std::size_t answered, std::ostream& notes) {
  if (path.empty()) return false;
  if (std::filesystem::exists(path)) return std::filesystem::is_regular_file(path);
  notes << "coterie: " << path.string() << ": will not have the " << answered << " requests answered before\n";
  return false;
}

void say_kept(const std::filesystem::path& path, std::size_t kept, std::size_t answered, std::ostream& notes) {
  notes << "coterie: " << path.string() << ": goes on from the record of " << kept << " requests; " << answered
        << " were answered before\n";
}

Trace read_like(const EarlierRecords::Paths& paths, const Trace& header) {
  Trace trace = read_trace(paths.trace);
  const auto expect = [&](bool alike, const std::string& field, const std::string& found, const std::string& expected) {
    if (!alike) {
      throw bad_field(paths.trace.string(), field, found, expected + ", as this job goes on, or no file");
    }
  };
  const auto number = [&](const std::string& field, int found, int expected) {
    expect(found == expected, field, std::to_string(found), std::to_string(expected));
  };
  expect(trace.model == header.model, "model", "'" + trace.model + "'", "'" + header.model + "'");
  number("num_experts", trace.num_experts, header.num_experts);
  number("top_k", trace.top_k, header.top_k);
  expect(trace.layer_ids == header.layer_ids, "layer_ids", "other layers", "those of the model");
  expect(!trace.sequence.empty() && !trace.position.empty() && !trace.weights.empty(), "tensors",
         "no sequences, positions or weights", "all of them");
  std::uint64_t bytes = 0;
  std::istringstream(trace.requests) >> bytes;
  expect(trace.requests == requests_of(paths.input, bytes), "requests",
         "a record of requests that aren't the first lines of the input any more", "those of " + paths.input.string());
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
  if (found(paths.trace, answered, notes)) {
    trace_ = read_like(paths, header);
    const std::unordered_set<std::int32_t> kept(trace_->sequence.begin(), trace_->sequence.end());
    say_kept(paths.trace, kept.size(), answered, notes);
  }
  if (found(paths.logits, answered, notes)) {
    logits_ = read_logits(paths.logits, vocabulary);
    say_kept(paths.logits, logits_.size(), answered, notes);
  }
}

Trace EarlierRecords::with(Trace later) const {
  if (!trace_) return later;
  std::vector<Run> runs;
  add_runs(later, {}, runs);
  add_runs(*trace_, {later.sequence.begin(), later.sequence.end()}, runs);
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.sequence < b.sequence; });

  Trace out;
  out.model = later.model;
  out.requests = later.requests;
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

LogitsRecorder::Logits EarlierRecords::with(LogitsRecorder::Logits later) {
  later.merge(logits_);
  return later;
}

std::string requests_of(const std::filesystem::path& input, std::optional<std::uint64_t> bytes) {
  if (!std::filesystem::is_regular_file(input)) return "";
  std::ifstream file(input, std::ios::binary);
  Sha256 digest;
  std::uint64_t size = 0;
  std::vector<char> chunk(1 << 16);
  while (file && (!bytes || size < *bytes)) {
    file.read(chunk.data(), static_cast<std::streamsize>(
                                std::min<std::uint64_t>(chunk.size(), bytes ? *bytes - size : chunk.size())));
    digest.update(std::as_bytes(std::span(chunk).first(static_cast<std::size_t>(file.gcount()))));
    size += static_cast<std::uint64_t>(file.gcount());
  }
  return std::to_string(size) + ' ' + digest.finish();
}

}  // namespace coterie
