// What a further copy of an expert would save: for tokens as the runtime sends them, and for pairs of experts.
#pragma once

#include "placement/search/traffic_model.hpp"

#include <memory>
#include <vector>

namespace coterie {

struct Copy {
  int expert;
  int rank;
};

/// Owners of all layers under change. Layers that are not neighbours may be changed by several threads at once.
class ReplicaCost {
 public:
  explicit ReplicaCost(Owners owners) : owners_(std::move(owners)) {}
  ReplicaCost(const ReplicaCost&) = delete;
  ReplicaCost& operator=(const ReplicaCost&) = delete;
  virtual ~ReplicaCost() = default;

  /// Cost after less cost before, and the rows by which every rank's load changes: (ranks), added to `rows`.
  [[nodiscard]] virtual double change(int layer, const Copy& copy, std::vector<double>& rows) = 0;
  virtual void add(int layer, const Copy& copy);
  /// The most promising copies of a layer, best first.
  [[nodiscard]] virtual std::vector<Copy> promising(int layer, std::size_t most) = 0;
  /// (ranks): rows of every rank at a layer.
  [[nodiscard]] virtual std::vector<double> rows(int layer) = 0;

  [[nodiscard]] const Owners& owners() const noexcept { return owners_; }

 protected:
  Owners owners_;
};

/// Rows sent, as TrafficModel counts them without replicas; tokens have one home each.
[[nodiscard]] std::unique_ptr<ReplicaCost> make_token_replica_cost(const Problem& problem, Owners owners,
                                                                   std::shared_ptr<const TokenSample> sample);
/// Weight of pairs that crosses, times price; an expert's rows are shared evenly by its ranks.
[[nodiscard]] std::unique_ptr<ReplicaCost> make_pair_replica_cost(const Problem& problem, Owners owners);

}  // namespace coterie
