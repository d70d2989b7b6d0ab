#include "placement/search/label_matching.hpp"

#include <algorithm>
#include <numeric>

namespace coterie {

Kept kept_shares(const Topology& topology, const LinkPrices& prices) {
  const std::vector<double> price = link_prices(topology, prices);
  const double dearest = *std::max_element(price.begin(), price.end());
  if (dearest <= 0) return {.same_rank = 1, .same_node = 1, .apart = 1};
  return {.same_rank = 1, .same_node = 1 - prices.inside_node / dearest, .apart = 1 - prices.between_nodes / dearest};
}

LabelMatching::LabelMatching(const Topology& topology, const Kept& kept)
    : ranks_(topology.ranks()), kept_(kept), size_(topology.ranks_per_node) {
  int next = 0;
  for (int n = 0; n < topology.nodes(); ++n) {
    first_rank_.push_back(next);
    next += size_[n];
  }
  std::vector<int> sizes = size_;
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  for (const int size : sizes) {
    std::vector<int> nodes;
    for (int n = 0; n < topology.nodes(); ++n)
      if (size_[n] == size) nodes.push_back(n);
    const auto side = static_cast<std::size_t>(size), count = nodes.size();
    classes_.push_back({nodes, Matching(size), Matching(static_cast<int>(count)), std::vector<double>(side * side),
                        std::vector<double>(count * count)});
  }
}

void LabelMatching::load_block(Class& c, int row, int column, std::span<const double> shared) const {
  const int size = size_[row];
  for (int h = 0; h < size; ++h)
    for (int g = 0; g < size; ++g)
      c.block[h * size + g] = shared[(first_rank_[row] + h) * ranks_ + first_rank_[column] + g];
}

void LabelMatching::load_gains(Class& c, std::span<const double> shared) const {
  const std::size_t count = c.nodes.size();
  for (std::size_t a = 0; a < count; ++a)
    for (std::size_t b = 0; b < count; ++b) {
      load_block(c, c.nodes[a], c.nodes[b], shared);
      c.gain[a * count + b] = (kept_.same_node - kept_.apart) * std::accumulate(c.block.begin(), c.block.end(), 0.0) +
                              (kept_.same_rank - kept_.same_node) * c.ranks.best(c.block);
    }
}

double LabelMatching::best(std::span<const double> shared) {
  if (size_.size() == 1) {  // the short way, which the exact solver takes millions of times
    const double gain = (kept_.same_rank - kept_.same_node) * classes_[0].ranks.best(shared);
    return kept_.same_node == 0 ? gain : gain + kept_.same_node * std::reduce(shared.begin(), shared.end());
  }
  double sum = kept_.apart == 0 ? 0 : kept_.apart * std::accumulate(shared.begin(), shared.end(), 0.0);
  for (Class& c : classes_) {
    load_gains(c, shared);
    sum += c.among.best(c.gain);
  }
  return sum;
}

std::vector<int> LabelMatching::names(std::span<const double> shared) {
  std::vector<int> name(ranks_);
  for (Class& c : classes_) {
    load_gains(c, shared);
    const std::vector<int> partner = c.among.columns(c.gain);
    for (std::size_t a = 0; a < c.nodes.size(); ++a) {
      const int row = c.nodes[a];
      const int column = c.nodes[partner[a]];
      load_block(c, row, column, shared);
      const std::vector<int> match = c.ranks.columns(c.block);
      for (int h = 0; h < size_[row]; ++h) name[first_rank_[row] + h] = first_rank_[column] + match[h];
    }
  }
  return name;
}

}  // namespace coterie
