#include "runtime/engine/request_feed.hpp"

#include "runtime/engine/dealer.hpp"
#include "runtime/engine/scheduler.hpp"
#include "runtime/requests/result_line.hpp"

#include <algorithm>
#include <fstream>
#include <string>

namespace coterie {
namespace {

std::int64_t count_lines(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> buffer(std::size_t{1} << 20);
  std::int64_t lines = 0;
  bool blank = true;
  while (in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    for (const char c : std::span(buffer).first(static_cast<std::size_t>(in.gcount()))) {
      if (c == '\n') {
        lines += blank ? 0 : 1;
        blank = true;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        blank = false;
      }
    }
  }
  return lines + (blank ? 0 : 1);
}

RequestError too_large(const Request& request, std::int64_t needed, std::int64_t available) {
  return {request.custom_id, request.line, "kv_memory_exceeded",
          "line " + std::to_string(request.line) + ": prompt and max_tokens: found " + std::to_string(needed) +
              " positions, expected at most the " + std::to_string(available) +
              " that a rank's KV memory holds; raise --kv-memory"};
}

}  // namespace

RequestFeed::RequestFeed(const std::filesystem::path& input, const RequestRules& rules, std::int64_t kv_tokens,
                         ResultsFile& results)
    : reader_(input, rules), results_(results), kv_tokens_(kv_tokens), lines_(count_lines(input)) {
  counts_.failed = static_cast<std::int64_t>(results.errors_found());
}

std::optional<Request> RequestFeed::next() {
  while (auto line = reader_.next()) {
    lines_ = std::max(lines_, ++read_);
    if (results_.answered(*line)) {
      ++counts_.answered_before;
      continue;
    }
    auto* request = std::get_if<Request>(&*line);
    if (request != nullptr && Scheduler::kv_tokens(*request) > kv_tokens_) {
      line = too_large(*request, Scheduler::kv_tokens(*request), kv_tokens_);
      request = nullptr;
    }
    if (request != nullptr) {
      ++counts_.given;
      counts_.expected_work += expected_work(*request);
      return std::move(*request);
    }
    results_.append(error_line(std::get<RequestError>(*line)));
    ++counts_.failed;
  }
  return std::nullopt;
}

}  // namespace coterie
