#include "placement/search/pair_model.hpp"

#include <algorithm>
#include <utility>

namespace coterie {

PairWeights::PairWeights(const Statistics& statistics, double affinity, double coactivation)
    : layers(statistics.layers), experts(statistics.experts) {
  const auto size = static_cast<std::size_t>(experts);
  if (affinity != 0) {
    forward.resize(statistics.affinity.size());
    backward.resize(statistics.affinity.size());
    for (std::size_t l = 0; l + 1 < static_cast<std::size_t>(layers); ++l)
      for (std::size_t i = 0; i < size; ++i)
        for (std::size_t j = 0; j < size; ++j) {
          const auto weight = static_cast<float>(affinity * statistics.affinity[(l * size + i) * size + j]);
          forward[(l * size + i) * size + j] = weight;
          backward[(l * size + j) * size + i] = weight;
        }
  }
  if (coactivation != 0)
    for (const double count : statistics.coactivation) within.push_back(static_cast<float>(coactivation * count));
}

PairModel::PairModel(const Problem& problem, std::shared_ptr<const PairWeights> weights)
    : weights_(std::move(weights)),
      ranks_(problem.ranks()),
      nodes_(problem.topology.nodes()),
      node_(problem.topology.node_of_rank()),
      rank_gain_(static_cast<float>(problem.prices.inside_node)),
      node_gain_(nodes_ > 1 ? static_cast<float>(problem.prices.between_nodes - problem.prices.inside_node) : 0) {}

void PairModel::restart(const Assignment& assignment) {
  const PairWeights& w = *weights_;
  assignment_ = assignment;
  here_.assign(static_cast<std::size_t>(w.layers) * ranks_ * w.experts, 0);
  near_.assign(node_gain_ == 0 ? 0 : static_cast<std::size_t>(w.layers) * nodes_ * w.experts, 0);
  const auto add = [&](int layer, int rank, const float* weight) {
    float* here = &here_[at(ranks_, layer, rank, 0)];
    for (int e = 0; e < w.experts; ++e) here[e] += weight[e];
    if (near_.empty()) return;
    float* near = &near_[at(nodes_, layer, node_[rank], 0)];
    for (int e = 0; e < w.experts; ++e) near[e] += weight[e];
  };
  for (int l = 0; l < w.layers; ++l)
    for (int e = 0; e < w.experts; ++e) {
      const int rank = assignment[l][e];
      if (!w.forward.empty() && l + 1 < w.layers) add(l + 1, rank, w.row(w.forward, l, e));
      if (!w.forward.empty() && l > 0) add(l - 1, rank, w.row(w.backward, l - 1, e));
      if (!w.within.empty()) add(l, rank, w.row(w.within, l, e));
    }
}

double PairModel::cost() const {
  const PairWeights& w = *weights_;
  double total = 0, saved = 0;
  for (const float weight : w.forward) total += weight;
  for (const float weight : w.within) total += weight / 2;
  // Every pair is seen from both of its ends.
  for (int l = 0; l < w.layers; ++l)
    for (int e = 0; e < w.experts; ++e) saved += gain(l, assignment_[l][e], e) / 2;
  return total * (rank_gain_ + node_gain_) - saved;
}

double PairModel::change(const Exchange& x) const {
  const int from = assignment_[x.layer][x.expert];
  float saved = gain(x.layer, x.to, x.expert) - gain(x.layer, from, x.expert);
  if (x.other >= 0) {
    saved += gain(x.layer, from, x.other) - gain(x.layer, x.to, x.other);
    // The two don't meet: each was counted as if the other stayed.
    if (!weights_->within.empty())
      saved -= 2 * weights_->row(weights_->within, x.layer, x.expert)[x.other] *
               (rank_gain_ + (node_[from] == node_[x.to] ? 0 : node_gain_));
  }
  return -saved;
}

double PairModel::own(int layer, const std::vector<int>& state) const {
  if (weights_->within.empty()) return 0;
  double kept = 0;
  for (int e = 0; e < weights_->experts; ++e) {
    const float* weight = weights_->row(weights_->within, layer, e);
    for (int f = 0; f < e; ++f) {
      if (state[e] == state[f])
        kept += weight[f] * (rank_gain_ + node_gain_);
      else if (node_[state[e]] == node_[state[f]])
        kept += weight[f] * node_gain_;
    }
  }
  return -kept;
}

std::vector<std::vector<double>> PairModel::flows(int layer, std::span<const std::vector<int>> here,
                                                  std::span<const std::vector<int>> next) const {
  const auto ranks = static_cast<std::size_t>(ranks_);
  std::vector<std::vector<double>> flows;
  for (const std::vector<int>& from : here) {
    // (ranks, experts of the next layer): what arrives from each rank.
    std::vector<float> arrives(ranks * weights_->experts, 0);
    if (!weights_->forward.empty())
      for (int e = 0; e < weights_->experts; ++e) {
        const float* weight = weights_->row(weights_->forward, layer, e);
        float* row = &arrives[static_cast<std::size_t>(from[e]) * weights_->experts];
        for (int f = 0; f < weights_->experts; ++f) row[f] += weight[f];
      }
    for (const std::vector<int>& to : next) {
      std::vector<double>& flow = flows.emplace_back(ranks * ranks, 0);
      for (std::size_t r = 0; r < ranks; ++r)
        for (int f = 0; f < weights_->experts; ++f) flow[to[f] * ranks + r] += arrives[r * weights_->experts + f];
    }
  }
  return flows;
}

void PairModel::apply(const Exchange& x) {
  const int from = assignment_[x.layer][x.expert];
  leave(x.layer, x.expert, from, x.to);
  if (x.other >= 0) leave(x.layer, x.other, x.to, from);
}

void PairModel::leave(int layer, int expert, int from, int to) {
  const PairWeights& w = *weights_;
  assignment_[layer][expert] = to;
  if (!w.forward.empty() && layer + 1 < w.layers) shift(layer + 1, w.row(w.forward, layer, expert), from, to);
  if (!w.forward.empty() && layer > 0) shift(layer - 1, w.row(w.backward, layer - 1, expert), from, to);
  if (!w.within.empty()) shift(layer, w.row(w.within, layer, expert), from, to);
}

void PairModel::shift(int layer, const float* weight, int from, int to) {
  const auto move = [&](float* __restrict source, float* __restrict target) {
    for (int e = 0; e < weights_->experts; ++e) {
      source[e] -= weight[e];
      target[e] += weight[e];
    }
  };
  move(&here_[at(ranks_, layer, from, 0)], &here_[at(ranks_, layer, to, 0)]);
  if (!near_.empty() && node_[from] != node_[to])
    move(&near_[at(nodes_, layer, node_[from], 0)], &near_[at(nodes_, layer, node_[to], 0)]);
}

std::vector<Exchange> promising_exchanges(const Problem& problem, const PairWeights& w, const Assignment& assignment,
                                          int layer, std::size_t most) {
  // (experts, ranks): what an expert's pairs would save on a rank.
  const auto ranks = static_cast<std::size_t>(problem.ranks());
  const std::vector<double> price = link_prices(problem.topology, problem.prices);
  std::vector<float> weight(ranks), saved(ranks * w.experts, 0);
  for (int e = 0; e < w.experts; ++e) {
    std::fill(weight.begin(), weight.end(), 0.0F);
    const auto add = [&](const std::vector<int>& partners, const float* row) {
      for (int p = 0; p < w.experts; ++p) weight[partners[p]] += row[p];
    };
    if (!w.within.empty()) add(assignment[layer], w.row(w.within, layer, e));
    if (!w.forward.empty() && layer + 1 < w.layers) add(assignment[layer + 1], w.row(w.forward, layer, e));
    if (!w.forward.empty() && layer > 0) add(assignment[layer - 1], w.row(w.backward, layer - 1, e));
    for (std::size_t from = 0; from < ranks; ++from)
      for (std::size_t to = 0; to < ranks; ++to)
        saved[e * ranks + to] -= weight[from] * static_cast<float>(price[from * ranks + to]);
  }
  std::vector<std::pair<float, Exchange>> found;
  for (int e = 0; e < w.experts; ++e)
    for (int f = e + 1; f < w.experts; ++f) {
      const auto a = static_cast<std::size_t>(assignment[layer][e]), b = static_cast<std::size_t>(assignment[layer][f]);
      if (a == b) continue;
      float gain = saved[e * ranks + b] - saved[e * ranks + a] + saved[f * ranks + a] - saved[f * ranks + b];
      if (!w.within.empty()) gain -= 2 * w.row(w.within, layer, e)[f] * static_cast<float>(price[a * ranks + b]);
      found.push_back({gain, {layer, e, static_cast<int>(b), f}});
    }
  const auto better_first = [](const auto& x, const auto& y) { return x.first > y.first; };
  const auto kept = std::min(most, found.size());
  std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(kept), found.end(), better_first);
  std::vector<Exchange> exchanges;
  for (std::size_t i = 0; i < kept; ++i) exchanges.push_back(found[i].second);
  return exchanges;
}

}  // namespace coterie
