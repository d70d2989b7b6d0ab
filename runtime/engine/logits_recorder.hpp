// Keeps the logits at every position of the prompts, for comparing with another implementation.
#pragma once

#include "comm/communicator.hpp"
#include "runtime/requests/request.hpp"

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace coterie {

class LogitsRecorder {
 public:
  /// (vocabulary) of the next position of the request's prompt.
  void record(const Request& request, std::span<const float> logits);

  /// (prompt tokens, vocabulary) by custom_id.
  using Logits = std::map<std::string, std::vector<float>>;
  /// Those of all ranks on rank 0, none elsewhere. Collective.
  [[nodiscard]] Logits gather(Communicator& comm) const;

 private:
  Logits logits_;
};

/// One F32 tensor (tokens, vocabulary) for each request, named by its custom_id.
void write_logits(const std::filesystem::path& path, const LogitsRecorder::Logits& logits, std::int64_t vocabulary);
/// What `write_logits` wrote. Throws InputError for a file of something else.
[[nodiscard]] LogitsRecorder::Logits read_logits(const std::filesystem::path& path, std::int64_t vocabulary);

}  // namespace coterie
