#include "placement/search/ledger.hpp"

#include <algorithm>

namespace coterie {

Ledger::Ledger(const Problem& problem)
    : ranks_(problem.ranks()),
      experts_(problem.experts()),
      fewest_(problem.fewest()),
      most_(problem.most()),
      load_(problem.statistics.load) {
  if (!problem.balance) return;
  for (int l = 0; l < problem.layers(); ++l) limit_.push_back(problem.load_limit(l));
}

void Ledger::restart(const Assignment& assignment) {
  count_.assign(assignment.size() * ranks_, 0);
  rows_.assign(assignment.size() * ranks_, 0);
  for (std::size_t l = 0; l < assignment.size(); ++l)
    for (int e = 0; e < experts_; ++e) {
      ++count_[at(static_cast<int>(l), assignment[l][e])];
      rows_[at(static_cast<int>(l), assignment[l][e])] += load_[l * experts_ + e];
    }
}

double Ledger::excess(int layer) const {
  if (limit_.empty()) return 0;
  double sum = 0;
  for (int r = 0; r < ranks_; ++r) sum += std::max(0.0, rows_[at(layer, r)] - limit_[layer]);
  return sum;
}

double Ledger::shifted(const Exchange& x) const {
  const double* load = &load_[static_cast<std::size_t>(x.layer) * experts_];
  return load[x.expert] - (x.other >= 0 ? load[x.other] : 0);
}

double Ledger::change(const Exchange& x, int from) const {
  if (limit_.empty()) return 0;
  const double limit = limit_[x.layer];
  const double rows = shifted(x);
  const double a = rows_[at(x.layer, from)] - limit;
  const double b = rows_[at(x.layer, x.to)] - limit;
  return std::max(0.0, a - rows) - std::max(0.0, a) + std::max(0.0, b + rows) - std::max(0.0, b);
}

void Ledger::apply(const Exchange& x, int from) {
  const double rows = shifted(x);
  rows_[at(x.layer, from)] -= rows;
  rows_[at(x.layer, x.to)] += rows;
  if (x.other >= 0) return;
  --count_[at(x.layer, from)];
  ++count_[at(x.layer, x.to)];
}

}  // namespace coterie
