// What ranks say to one another: one interface, an implementation per transport, wrappers for tests and metrics.
#pragma once

#include "comm/message.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace coterie {

/// A fault of the transport or of a peer: a lost rank, a time-out, a failed library call. The job can't go on.
class CommError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Where in the program a collective stands; the text of every message about ranks that did not arrive, and the key by
/// which traffic is counted. Every rank that takes part passes the same values, but for the group.
struct Place {
  const char* collective = "";  ///< a literal: "dispatch", "combine", "step report", ...
  int layer = -1;               ///< MoE layer, -1 outside the layers
  std::int64_t step = -1;       ///< engine step, -1 outside the steps
  const char* group = "";       ///< a literal: what this rank sends is counted apart by it
  /// Of an exchange: the ranks that take part, ascending, this one among them; without: all. The others bring nothing,
  /// and nobody waits for them. What lies here outlives the call.
  std::span<const int> among = {};

  [[nodiscard]] bool takes_part(int rank) const {
    return among.empty() || std::binary_search(among.begin(), among.end(), rank);
  }
};

/// "dispatch at layer 3, step 17"
[[nodiscard]] std::string to_string(const Place& place);

/// The ranks of one job. All members but the accessors are collective: every rank calls them in the same order with the
/// same Place. They block; no wait is longer than the time limit. Not thread-safe.
class Communicator {
 public:
  virtual ~Communicator() = default;

  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int ranks() const noexcept = 0;
  /// (ranks): the node (ranks that share a host's memory) of each rank; nodes are numbered by their lowest rank.
  [[nodiscard]] virtual std::span<const int> node_of_rank() const noexcept = 0;

  /// Whether the bulk of its messages lies where it may be out of the host's reach (MessageMemorySource::bulk).
  [[nodiscard]] virtual bool reaches_devices() const noexcept { return false; }

  /// Every rank's `mine`, by rank. Sizes may differ and need not be known to the others.
  /// Throws CommError past the time limit, naming the ranks that did not arrive, the collective and the layer.
  [[nodiscard]] virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                                       const Place& place) = 0;

  /// The exchange: one all-to-all-v that carries everything bound for a rank in one message. Takes the outbox, returns
  /// what the others sent to this rank. Messages may be of any size, also over 2 GiB; a rank's message to itself is
  /// moved, not copied. Throws CommError as above.
  [[nodiscard]] Inbox exchange(Outbox outbox, const Place& place) {
    begin(std::move(outbox), place);
    return finish();
  }

  /// The same in parts, so that work can be done meanwhile. `begin` waits for nobody; until `finish` no other
  /// collective may begin. Implementations may use `place` and its group in `begin` only.
  virtual void begin(Outbox outbox, const Place& place) = 0;
  /// Moves on what is under way and doesn't wait: to be called about every millisecond of work, and while the host
  /// waits for a device. Whether all is here. Throws CommError where something was under way for longer than the time
  /// limit that no other member waits for.
  [[nodiscard]] virtual bool progress() = 0;
  /// Waits for every section but the weights, which may still be under way. The reference is valid until `finish`, the
  /// memory of the messages for as long as what that returns. Of bulk out of the host's reach "is here" means that what
  /// a device is asked for from here on finds it.
  [[nodiscard]] virtual Inbox& wait_for_rows() = 0;
  /// Waits for all that is still under way, in the same sense.
  [[nodiscard]] virtual Inbox finish() = 0;
  /// Leaves what is under way, as an error does that comes in between: nothing on this rank waits for it any longer.
  virtual void abandon() noexcept {}
};

struct CommOptions {
  std::chrono::duration<double> timeout = std::chrono::seconds(300);  ///< the longest wait for other ranks
  int ranks_per_node = 0;                                             ///< 0: found by shared memory
};

/// Owns the start and the end of MPI in this process. Construct one, first thing in a program that uses ranks.
/// Works without mpirun or srun too: then there is one rank.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  /// Waits for the other ranks' end, no longer than the longest time limit of this session's communicators; past it
  /// says on stderr who is missing and aborts with code 3. Destroyed by an exception it doesn't wait: the process then
  /// ends with an abort of all ranks with code 3 when main() returns.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int ranks() const noexcept;
  /// Ends all ranks of the job at once with this exit code. Does not return.
  [[noreturn]] void abort(int exit_code) noexcept;

  struct Job;
  /// What this process's communicators share; for comm/ only.
  [[nodiscard]] Job& job() noexcept { return *job_; }

 private:
  std::unique_ptr<Job> job_;
};

/// Every rank makes its communicators in the same order; making one doesn't wait. The session must outlive the result.
[[nodiscard]] std::unique_ptr<Communicator> make_mpi_communicator(MpiSession& session, const CommOptions& options);

}  // namespace coterie
