// Keeps the logits at every position of the prompts, for comparing with another implementation.
#pragma once

#include "comm/communicator.hpp"
#include "runtime/request.hpp"

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace coterie {

class LogitsRecorder {
 public:
  /// Positions of a prompt come in order.
  void record(const Request& request, std::int64_t position, std::span<const float> logits);

  /// Rank 0 writes one F32 tensor (tokens, vocabulary) for each request, named by its custom_id. Collective.
  void write(Communicator& comm, const std::filesystem::path& path, std::int64_t vocabulary) const;

 private:
  std::map<std::string, std::vector<float>> logits_;  ///< (prompt tokens, vocabulary) by custom_id
};

}  // namespace coterie
