// The doubly nonnegative relaxation of a placement problem, solved by the alternating direction method of multipliers.
#pragma once

#include "placement/bound/dual_values.hpp"
#include "placement/bound/relaxation.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

namespace coterie {

/// An iteration towards the best S, where S(i, j) says how far items i and j share a part. One side holds each block's
/// matrix to what its eigenvalues must be, the other holds S to [0, 1], to the triangle inequalities met so far and to
/// the load limit, where it maximises the weight; prices draw the two together. Every iterate gives dual values, and
/// these prove a bound. placement/bound/bounds.md has the formulas.
class DoublyNonnegative {
 public:
  /// `threads` 0: all cores. Results don't depend on their number. The relaxation must outlive it; its weights, and
  /// nothing else of it, may change between iterations: then `forget_bound`. `parts` (layers)(items), where it is not
  /// empty, is a division to start from.
  DoublyNonnegative(const Relaxation& relaxation, int threads, const std::vector<std::vector<int>>& parts = {});

  /// With `look` the bound is looked at, too.
  void iterate(bool look);
  /// What was proven held for other weights. Prices and S stay.
  void forget_bound() noexcept;

  [[nodiscard]] int iterations() const noexcept { return iterations_; }
  /// The best bound so far, but for rounding errors; infinity before the first look.
  [[nodiscard]] double bound() const noexcept { return best_bound_; }
  /// The dual values that prove it.
  [[nodiscard]] const DualValues& dual() const noexcept { return best_; }
  /// What they make use of: "linear" (prices alone), "dnn", "dnn+triangles", and "+load" where there is a limit.
  [[nodiscard]] std::string kind() const;
  /// How far the two sides still differ, per entry (root mean square).
  [[nodiscard]] double distance() const noexcept { return distance_; }
  /// (items, items): pairs inside a layer, upper triangle.
  [[nodiscard]] std::span<const double> within(int layer) const;
  /// (items, items): a layer's items (rows) and those of the next (columns).
  [[nodiscard]] std::span<const double> between(int layer) const;

 private:
  struct Cut {
    DualValues::Triangle triangle;  // its price is kept below
    std::size_t entry[3];           // of S(i, j), S(i, q), S(j, q)
    double price = 0;
    int idle = 0;  // iterations without being broken
  };
  struct Block {
    std::vector<double> sum;  // (size, size): matrix plus prices, as the other side sees it
    double eigenvalues = 0;   // share of the bound
    double distance = 0;
    std::vector<Cut> cuts;
    std::unordered_set<std::uint64_t> known;
  };

  [[nodiscard]] std::size_t entry(int block, int i, int j) const;
  [[nodiscard]] double inverse_copies(std::size_t entry) const;
  [[nodiscard]] double limited(std::size_t entry, double value) const;
  void start_at(const std::vector<std::vector<int>>& parts);
  void start_block(int block);
  void keep_prices(int block);
  void load_block(int block, std::vector<double>& shared) const;
  void project(int block, bool look);
  void maximise(int layer);
  void hold_load(int layer);
  void hold_triangles(int block);
  void move(std::size_t entry, double price);
  void find_triangles(int block);
  void look_at_bound();
  void adapt();

  const Relaxation& relaxation_;
  int threads_;
  int size_;      // of a block's matrix
  double scale_;  // weights are divided by it
  double step_ = 0.1;
  int iterations_ = 0;
  double distance_ = 1;
  std::vector<Block> blocks_;
  // Entries of S: (layers)(items, items) inside layers, upper triangles, then (layers - 1)(items, items) between them.
  std::vector<double> shared_;                   // S
  std::vector<double> unlimited_;                // S before it is held to [0, 1]
  std::vector<double> priced_;                   // what triangles and loads take off the weight
  std::vector<std::vector<double>> load_price_;  // (layers)(items)
  std::vector<double> moved_;                    // (layers): how far S moved in this iteration, squared
  DualValues current_, best_;
  double best_bound_;
  int looks_ = 0, best_look_ = 0;
};

}  // namespace coterie
