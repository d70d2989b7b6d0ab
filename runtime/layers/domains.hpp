// Coherence domains: which ranks hold the KV cache of which sequences.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// How far a token may go on from where its experts are (ExFlow's context coherence).
enum class Coherence : std::uint8_t {
  rank,   ///< nowhere: every token comes home after its experts; plain expert parallelism
  node,   ///< to the ranks of its node
  world,  ///< to all ranks
};

/// The ranks, divided into domains. Every rank of a domain holds the keys and values of all the domain's sequences.
class Domains {
 public:
  Domains(Coherence coherence, int rank, std::span<const int> node_of_rank);

  [[nodiscard]] int self() const noexcept { return self_; }
  [[nodiscard]] int count() const noexcept { return static_cast<int>(ranks_.size()); }
  [[nodiscard]] int ranks_of_job() const noexcept { return static_cast<int>(domain_of_rank_.size()); }
  [[nodiscard]] int of(int rank) const { return domain_of_rank_[rank]; }
  [[nodiscard]] std::span<const int> ranks(int domain) const { return ranks_[domain]; }
  /// The ranks of this rank's domain, itself included, ascending.
  [[nodiscard]] std::span<const int> peers() const { return ranks_[domain_of_rank_[self_]]; }
  [[nodiscard]] bool together(int a, int b) const { return of(a) == of(b); }
  /// Whether tokens may stay away from home at all.
  [[nodiscard]] bool coherent() const noexcept { return count() < ranks_of_job(); }

 private:
  int self_;
  std::vector<int> domain_of_rank_;
  std::vector<std::vector<int>> ranks_;
};

}  // namespace coterie
