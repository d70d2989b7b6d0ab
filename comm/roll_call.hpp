// How ranks tell one another where they stand when a collective takes too long, and the text that comes of it.
#pragma once

#include "comm/stamp.hpp"

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace coterie {

/// A rank that a collective still waits for when time is up.
struct Straggler {
  int rank = 0;
  bool arrived = false;               ///< it did come to the collective, but not all data went through
  Stamp last_seen;                    ///< the last collective it came to; kind none: it came to none so far
  std::optional<std::string> answer;  ///< where it says it stands
};

/// "timed out after 300 s at dispatch at layer 3, step 17: rank 1 did not arrive; rank 1 does not answer, ..."
[[nodiscard]] std::string time_out_text(std::chrono::duration<double> limit, const Stamp& here,
                                        std::span<const Straggler> stragglers);

/// "rank 3", "ranks 1, 2 and 5", at most eight of them by name
[[nodiscard]] std::string to_string_of_ranks(std::span<const int> ranks);

/// The channel for it: short notices that are sent without waiting for anyone. MPI may use the memory of notices until
/// they have arrived, which with a dead receiver is never; such notices are left to the end of the process.
class RollCall {
 public:
  enum class Subject : int { where, here, given_up };
  struct Notice {
    Subject subject = Subject::where;
    int length = 0;
    std::array<char, 1016> text{};

    [[nodiscard]] std::string str() const { return {text.data(), static_cast<std::size_t>(length)}; }
  };

  RollCall(MPI_Comm comm, int tag, int ranks);
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  /// A persistent receive for a notice of any rank. The caller starts, tests and frees it.
  [[nodiscard]] MPI_Request listen(Notice& heard);

  void send(int rank, Subject subject, const std::string& text = {});

  std::vector<std::optional<std::string>> answers;  ///< (ranks): where they say they stand

 private:
  MPI_Comm comm_;
  int tag_;
  std::vector<std::unique_ptr<Notice>> sent_;
  std::vector<MPI_Request> requests_;  ///< (sent)
};

}  // namespace coterie
