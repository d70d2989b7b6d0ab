#include "runtime/layers/domains.hpp"

#include <algorithm>

namespace coterie {

Domains::Domains(Coherence coherence, int rank, std::span<const int> node_of_rank) : self_(rank) {
  for (int r = 0; r < static_cast<int>(node_of_rank.size()); ++r) {
    domain_of_rank_.push_back(coherence == Coherence::rank ? r : coherence == Coherence::node ? node_of_rank[r] : 0);
  }
  ranks_.resize(static_cast<std::size_t>(*std::max_element(domain_of_rank_.begin(), domain_of_rank_.end())) + 1);
  for (int r = 0; r < static_cast<int>(node_of_rank.size()); ++r) ranks_[domain_of_rank_[r]].push_back(r);
}

}  // namespace coterie
