// How ranks tell one another where they stand when a collective takes too long, and the text that comes of it.
#pragma once

#include "comm/stamp.hpp"

#include <mpi.h>

#include <array>
#include <chrono>
#include <map>
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

/// What one rank says to another.
struct Notice {
  enum class Subject : int { where, here, given_up };

  Subject subject = Subject::where;
  int communicator = 0;  ///< the number of the communicator whose collective it is about
  int length = 0;
  std::array<char, 1012> text{};

  Notice() = default;
  Notice(Subject the_subject, int the_communicator, const std::string& the_text = {});
  [[nodiscard]] std::string str() const { return {text.data(), static_cast<std::size_t>(length)}; }
};

/// The channel for notices, one for all communicators of a process, so that a rank answers wherever it waits.
/// Sending waits for nobody; the memory of notices that never arrive is left to the end of the process.
class RollCall {
 public:
  RollCall(MPI_Comm comm, int tag);
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  /// A persistent receive of a notice from any rank, under way. When a test finds it done, `take` the notice.
  [[nodiscard]] MPI_Request request() const noexcept { return request_; }
  [[nodiscard]] Notice take();

  /// What a notice from `peer` means to one who stands in `stamp` of `communicator`: answers whoever asks with `where`,
  /// gives what the peer answered about this communicator, and throws CommError if a rank gave that up.
  std::optional<std::string> hear(int peer, const Notice& notice, int communicator, const Stamp& stamp,
                                  const std::string& where);

  /// Throws CommError if a rank is known to have given `communicator` up, at which this one comes to `stamp`.
  void require_kept(int communicator, const Stamp& stamp) const;

  void send(int rank, const Notice& notice);

 private:
  MPI_Comm comm_;
  int tag_;
  Notice heard_;
  MPI_Request request_ = MPI_REQUEST_NULL;
  std::vector<std::unique_ptr<Notice>> sent_;
  std::vector<MPI_Request> sends_;       ///< (sent)
  std::map<int, std::string> given_up_;  ///< by communicator: by whom, and why
};

}  // namespace coterie
