#include "placement/search/traffic_model.hpp"

#include <algorithm>

namespace coterie {

TrafficModel::TrafficModel(const Problem& problem, std::shared_ptr<const TokenSample> sample)
    : sample_(std::move(sample)),
      layers_(problem.layers()),
      experts_(problem.experts()),
      ranks_(problem.ranks()),
      coherent_(problem.domain != Domain::rank) {
  const std::vector<double> price = link_prices(problem.topology, problem.prices);
  const auto group = [&](int first, int last, int home_first, int home_last) {
    Group g{static_cast<float>(home_last - home_first) / static_cast<float>(ranks_), first, last, {}};
    const auto columns = static_cast<std::size_t>(ranks_);
    g.price.assign((columns + 1) * columns, 0);
    for (std::size_t to = 0; to < columns; ++to) {
      for (int home = home_first; home < home_last; ++home)
        g.price[to] += static_cast<float>(price[home * columns + to] / (home_last - home_first));
      for (std::size_t from = 0; from < columns; ++from)
        g.price[(from + 1) * columns + to] = static_cast<float>(price[from * columns + to]);
    }
    groups_.push_back(std::move(g));
  };
  if (problem.domain == Domain::rank) group(0, 0, 0, ranks_);
  if (problem.domain == Domain::world) group(0, ranks_, 0, ranks_);
  if (problem.domain == Domain::node) {
    int first = 0;
    for (const int size : problem.topology.ranks_per_node) {
      if (size > 0) group(first, first + size, first, first + size);
      first += size;
    }
  }
  for (int l = 0; l < layers_; ++l) scratch_.push_back({empty_visit(), empty_visit()});
}

TrafficModel::Visit TrafficModel::empty_visit() const {
  Visit v;
  v.rank.resize(sample_->width);
  v.sum.resize(sample_->width);
  v.choices.resize(sample_->width);
  v.place.assign(ranks_, 0);
  return v;
}

void TrafficModel::visit(int layer, int token, const int* ranks, Visit& v) const {
  const std::size_t begin = at(layer, token) * sample_->width;
  const std::uint16_t* expert = &sample_->experts[begin];
  const float* gate = sample_->gates.empty() ? nullptr : &sample_->gates[begin];
  v.count = 0;
  for (int c = 0; c < sample_->width && expert[c] < experts_; ++c) {
    const int rank = ranks[expert[c]];
    const float weight = gate ? gate[c] : 1;
    const int place = v.place[rank];
    if (place < v.count && v.rank[place] == rank) {
      v.sum[place] += weight;
      ++v.choices[place];
    } else {
      v.place[rank] = static_cast<std::int16_t>(v.count);
      v.rank[v.count] = static_cast<std::int16_t>(rank);
      v.sum[v.count] = weight;
      v.choices[v.count++] = 1;
    }
  }
}

int TrafficModel::land(const Group& group, const Visit& v) const {
  int best = -1;
  for (int i = 0; i < v.count; ++i) {
    if (v.rank[i] < group.first || v.rank[i] >= group.last) continue;
    if (best < 0 || v.sum[i] > v.sum[best] || (v.sum[i] == v.sum[best] && v.choices[i] > v.choices[best])) best = i;
  }
  return best < 0 ? kHome : v.rank[best];
}

float TrafficModel::copies(const Group& group, const Visit& v, int resident, int landing) const {
  const float* price = group.from(resident, ranks_);
  float sum = 0;
  for (int i = 0; i < v.count; ++i) sum += price[v.rank[i]];
  // Where no rank of the domain computes, the token's row goes home besides.
  if (coherent_ && resident != kHome && v.count > 0 && landing == kHome) sum += group.from(kHome, ranks_)[resident];
  return group.share * sum;
}

float TrafficModel::layer_cost(const Group& group, const Visit& v, int resident, int landing) const {
  const float* price = group.from(landing, ranks_);
  float sum = 0;
  for (int i = 0; i < v.count; ++i) sum += price[v.rank[i]];
  return group.share * sum + copies(group, v, resident, landing);
}

void TrafficModel::restart(const Assignment& assignment) {
  assignment_ = assignment;
  trial_.clear();
  for (const auto& layer : assignment) {
    trial_.insert(trial_.end(), layer.begin(), layer.end());
    trial_.push_back(kHome);
  }
  const auto cells = static_cast<std::size_t>(layers_) * sample_->tokens;
  landing_.assign(cells * groups_.size(), kHome);
  cost_.assign(cells, 0);
  Visit& visited = scratch_.front()[0];
  for (int l = 0; l < layers_; ++l)
    for (int t = 0; t < sample_->tokens; ++t) {
      visit(l, t, &trial_[static_cast<std::size_t>(l) * (experts_ + 1)], visited);
      for (std::size_t g = 0; g < groups_.size(); ++g) {
        const int to = land(groups_[g], visited);
        landing_[at(l, t) * groups_.size() + g] = static_cast<std::int16_t>(to);
        cost_[at(l, t)] += layer_cost(groups_[g], visited, landing(l - 1, g, t), to);
      }
    }
}

double TrafficModel::cost() const {
  double sum = 0;
  for (int l = 0; l < layers_; ++l)
    for (int t = 0; t < sample_->tokens; ++t) sum += static_cast<double>(sample_->weight[t]) * cost_[at(l, t)];
  return sum;
}

// Calls each(token) for the tokens that chose one of the exchange's experts, once each, while trial_ is as the exchange
// would make it.
template <class Each>
void TrafficModel::for_changed(const Exchange& x, Each&& each) const {
  int* ranks = &trial_[static_cast<std::size_t>(x.layer) * (experts_ + 1)];
  const int from = ranks[x.expert];
  ranks[x.expert] = x.to;
  if (x.other >= 0) ranks[x.other] = from;
  const std::size_t first = static_cast<std::size_t>(x.layer) * experts_;
  for (const int token : sample_->uses[first + x.expert]) each(token);
  if (x.other >= 0)
    for (const int token : sample_->uses[first + x.other]) {
      const std::uint16_t* expert = &sample_->experts[at(x.layer, token) * sample_->width];
      if (std::find(expert, expert + sample_->width, x.expert) == expert + sample_->width) each(token);
    }
  if (x.other >= 0) ranks[x.other] = x.to;
  ranks[x.expert] = from;
}

double TrafficModel::change(const Exchange& x) const {
  Visit& here = scratch_[x.layer][0];
  Visit& next = scratch_[x.layer][1];
  const int* ranks = &trial_[static_cast<std::size_t>(x.layer) * (experts_ + 1)];
  double sum = 0;
  for_changed(x, [&](int t) {
    visit(x.layer, t, ranks, here);
    float change = -cost_[at(x.layer, t)];
    bool seen = false;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const int to = land(groups_[g], here);
      change += layer_cost(groups_[g], here, landing(x.layer - 1, g, t), to);
      const int before = landing(x.layer, g, t);
      if (to == before || x.layer + 1 == layers_) continue;
      if (!seen) visit(x.layer + 1, t, ranks + experts_ + 1, next);
      seen = true;
      const int after = landing(x.layer + 1, g, t);
      change += copies(groups_[g], next, to, after) - copies(groups_[g], next, before, after);
    }
    sum += static_cast<double>(sample_->weight[t]) * change;
  });
  return sum;
}

void TrafficModel::apply(const Exchange& x) {
  Visit& here = scratch_[x.layer][0];
  Visit& next = scratch_[x.layer][1];
  const int* ranks = &trial_[static_cast<std::size_t>(x.layer) * (experts_ + 1)];
  for_changed(x, [&](int t) {
    visit(x.layer, t, ranks, here);
    float cost = 0;
    bool seen = false;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const int to = land(groups_[g], here);
      cost += layer_cost(groups_[g], here, landing(x.layer - 1, g, t), to);
      std::int16_t& now = landing_[at(x.layer, t) * groups_.size() + g];
      const int before = now;
      now = static_cast<std::int16_t>(to);
      if (to == before || x.layer + 1 == layers_) continue;
      if (!seen) visit(x.layer + 1, t, ranks + experts_ + 1, next);
      seen = true;
      const int after = landing(x.layer + 1, g, t);
      cost_[at(x.layer + 1, t)] += copies(groups_[g], next, to, after) - copies(groups_[g], next, before, after);
    }
    cost_[at(x.layer, t)] = cost;
  });
  int* now = &trial_[static_cast<std::size_t>(x.layer) * (experts_ + 1)];
  if (x.other >= 0) now[x.other] = assignment_[x.layer][x.other] = now[x.expert];
  now[x.expert] = assignment_[x.layer][x.expert] = x.to;
}

double TrafficModel::own(int layer, const std::vector<int>& state) const {
  Visit v = empty_visit();
  double sum = 0;
  for (int t = 0; t < sample_->tokens; ++t) {
    visit(layer, t, state.data(), v);
    for (const Group& group : groups_) {
      const int to = land(group, v);
      // Where the token comes from is the neighbours' affair, but at the first layer, and without coherence, it is
      // home.
      const float rows = layer_cost(group, v, kHome, to) - (coherent_ && layer > 0 ? copies(group, v, kHome, to) : 0);
      sum += static_cast<double>(sample_->weight[t]) * rows;
    }
  }
  return sum;
}

std::vector<std::vector<double>> TrafficModel::flows(int layer, std::span<const std::vector<int>> here,
                                                     std::span<const std::vector<int>> next) const {
  const auto ranks = static_cast<std::size_t>(ranks_);
  std::vector<std::vector<double>> flows(here.size() * next.size(), std::vector<double>(ranks * ranks, 0));
  if (!coherent_) return flows;
  Visit v = empty_visit();
  for (const Group& group : groups_) {
    // (tokens, here): where tokens are resident at the next layer.
    std::vector<std::int16_t> resident(here.size() * sample_->tokens);
    for (std::size_t s = 0; s < here.size(); ++s)
      for (int t = 0; t < sample_->tokens; ++t) {
        visit(layer, t, here[s].data(), v);
        resident[t * here.size() + s] = static_cast<std::int16_t>(land(group, v));
      }
    for (std::size_t n = 0; n < next.size(); ++n)
      for (int t = 0; t < sample_->tokens; ++t) {
        const double weight = static_cast<double>(sample_->weight[t]) * group.share;
        visit(layer + 1, t, next[n].data(), v);
        for (std::size_t s = 0; s < here.size(); ++s) {
          const int from = resident[t * here.size() + s];
          if (from == kHome) continue;
          double* flow = &flows[s * next.size() + n][from];
          for (int i = 0; i < v.count; ++i) flow[v.rank[i] * ranks] += weight;
        }
      }
  }
  return flows;
}

}  // namespace coterie
