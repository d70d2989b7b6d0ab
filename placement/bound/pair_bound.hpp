// An upper bound of the weight between consecutive layers that any placement keeps on a rank, or on a node.
#pragma once

#include "placement/bound/doubly_nonnegative.hpp"
#include "placement/bound/dual_certificate.hpp"
#include "placement/problem.hpp"

#include <optional>
#include <string>
#include <vector>

namespace coterie {

/// Kept weight is a sum over levels: experts that share a node, and experts that share a rank, each with what sharing
/// gains. Each level is bounded by itself.
class PairBound {
 public:
  /// `start`: a placement to start from, or null.
  PairBound(const Problem& problem, int threads, const Assignment* start = nullptr);
  PairBound(const PairBound&) = delete;
  PairBound& operator=(const PairBound&) = delete;

  /// One iteration of every level; with `look` their bounds are looked at.
  void iterate(bool look);
  [[nodiscard]] int iterations() const;

  /// Kept share of the weight, but for rounding errors.
  [[nodiscard]] double bound() const { return share(false); }
  /// The same, rounding errors added.
  [[nodiscard]] double proven() const { return share(true); }
  /// The weight between consecutive layers.
  [[nodiscard]] double total() const noexcept { return total_; }

  /// How the bound was found; what proves it.
  [[nodiscard]] std::string kind() const;
  [[nodiscard]] DualCertificate certificate() const;

 private:
  struct Level {
    Level(std::string level, double with) : name(std::move(level)), gain(with) {}
    std::string name;     ///< "rank" or "node"
    double gain;          ///< of a pair that shares a part
    double simple = 0;    ///< bound by degrees alone, without replicas
    double replicas = 0;  ///< what they may add to it
    std::optional<Relaxation> relaxation;
    std::optional<DoublyNonnegative> iteration;
  };
  void add_level(const Problem& problem, const std::string& name, double gain, const Assignment* start);
  [[nodiscard]] double share(bool proven) const;

  int threads_;
  double total_ = 0;
  double apart_ = 0;  ///< what a pair keeps that shares nothing
  std::vector<Level> levels_;
};

}  // namespace coterie
