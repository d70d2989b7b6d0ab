#include "placement/solvers/integer_program.hpp"

#include "placement/search/label_matching.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace coterie {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kScale = 1000;  // of all weight: solvers' absolute tolerances are made for numbers of this size

}  // namespace

std::string why_no_integer_program(const Problem& problem) {
  if (problem.replicas > 0) return "replicas";
  if (problem.objective != Objective::affinity) return "objective " + std::string(name_of(problem.objective));
  return {};
}

PairProgram::PairProgram(const Problem& problem) : problem_(problem), node_(problem.topology.node_of_rank()) {
  const double total = std::accumulate(problem.statistics.affinity.begin(), problem.statistics.affinity.end(), 0.0);
  program_.unit = 1 / kScale;
  program_.row_start.push_back(0);
  bool all_free = true;
  for (int l = 0; l < problem.layers(); ++l) all_free = all_free && !problem.is_fixed(l);
  first_names_ = all_free && problem.topology.nodes() == 1;
  for (int l = 0; l < problem.layers(); ++l) {
    first_x_.push_back(problem.is_fixed(l) ? -1 : program_.columns());
    if (problem.is_fixed(l)) continue;
    for (int e = 0; e < problem.experts(); ++e)
      for (int r = 0; r < problem.ranks(); ++r) add_column(0, 0, first_names_ && l == 0 && r > e ? 0 : 1);
  }
  program_.integers = program_.columns();
  for (int l = 0; l < problem.layers(); ++l)
    if (!problem.is_fixed(l)) add_assignment(l);

  const Kept kept = kept_shares(problem.topology, problem.prices);
  const double apart = problem.topology.nodes() > 1 ? kept.apart : kept.same_node;
  const double node = problem.topology.nodes() > 1 ? kept.same_node - apart : 0;
  if (total <= 0) {
    program_.constant = kScale;  // nothing to keep: all is kept
    return;
  }
  program_.constant = apart * kScale;
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    for (const bool ranks : {true, false}) {
      const double gain = (ranks ? 1 - apart - node : node) * kScale / total;
      if (gain != 0) add_pairs(l, ranks, gain);
    }
  }
}

int PairProgram::parts(bool ranks) const {
  return ranks ? problem_.ranks() : problem_.topology.nodes();
}

int PairProgram::x(int layer, int expert, int rank) const {
  return first_x_[layer] + expert * problem_.ranks() + rank;
}

int PairProgram::add_column(double cost, double lower, double upper) {
  program_.cost.push_back(cost);
  program_.lower.push_back(lower);
  program_.upper.push_back(upper);
  return program_.columns() - 1;
}

void PairProgram::add_row(double lower, double upper, const std::vector<std::pair<int, double>>& entries) {
  for (const auto& [column, entry] : entries) {
    program_.column.push_back(column);
    program_.entry.push_back(entry);
  }
  program_.row_start.push_back(static_cast<int>(program_.column.size()));
  program_.row_lower.push_back(lower);
  program_.row_upper.push_back(upper);
}

/// Every expert on one rank, and the limits of every rank.
void PairProgram::add_assignment(int layer) {
  std::vector<std::pair<int, double>> entries;
  for (int e = 0; e < problem_.experts(); ++e) {
    entries.clear();
    for (int r = 0; r < problem_.ranks(); ++r) entries.emplace_back(x(layer, e, r), 1);
    add_row(1, 1, entries);
  }
  const auto load = problem_.statistics.load_at(layer);
  const double limit = problem_.load_limit(layer);
  for (int r = 0; r < problem_.ranks(); ++r) {
    entries.clear();
    for (int e = 0; e < problem_.experts(); ++e) entries.emplace_back(x(layer, e, r), 1);
    add_row(problem_.fewest(), problem_.most(), entries);
    if (limit == kInfinity || limit <= 0) continue;
    for (int e = 0; e < problem_.experts(); ++e) entries[e].second = load[e] / limit;
    add_row(-kInfinity, 1, entries);
  }
}

void PairProgram::add_pairs(int layer, bool ranks, double gain) {
  const auto weight = problem_.statistics.affinity_at(layer);
  const int experts = problem_.experts();
  const auto part_of = [&](int rank) { return ranks ? rank : node_[rank]; };
  const bool here_fixed = problem_.is_fixed(layer);
  const bool next_fixed = problem_.is_fixed(layer + 1);
  // Columns of each expert's z, by part, for the rows that tie them to x.
  const auto size = static_cast<std::size_t>(experts) * parts(ranks);
  std::vector<std::vector<std::pair<int, double>>> of_here(size), of_next(size);
  for (int i = 0; i < experts; ++i)
    for (int j = 0; j < experts; ++j) {
      const double worth = gain * weight[static_cast<std::size_t>(i) * experts + j];
      if (worth == 0) continue;
      if (here_fixed && next_fixed) {
        const bool together = part_of(problem_.fixed[layer][i]) == part_of(problem_.fixed[layer + 1][j]);
        if (together) program_.constant += worth;
      } else if (here_fixed || next_fixed) {
        const int part = part_of(here_fixed ? problem_.fixed[layer][i] : problem_.fixed[layer + 1][j]);
        for (int r = 0; r < problem_.ranks(); ++r)
          if (part_of(r) == part) program_.cost[here_fixed ? x(layer + 1, j, r) : x(layer, i, r)] += worth;
      } else {
        pairs_.push_back({layer, i, j, program_.columns(), ranks});
        std::vector<std::pair<int, double>> all;
        for (int p = 0; p < parts(ranks); ++p) {
          const int z = add_column(worth, 0, 1);
          all.emplace_back(z, 1);
          of_here[static_cast<std::size_t>(i) * parts(ranks) + p].emplace_back(z, 1);
          of_next[static_cast<std::size_t>(j) * parts(ranks) + p].emplace_back(z, 1);
        }
        add_row(-kInfinity, 1, all);
      }
    }
  if (here_fixed || next_fixed) return;
  std::vector<int> ranks_in(parts(ranks), 0);
  for (int r = 0; r < problem_.ranks(); ++r) ++ranks_in[part_of(r)];
  for (int e = 0; e < experts; ++e)
    for (int p = 0; p < parts(ranks); ++p)
      for (const bool here : {true, false}) {
        auto& entries = (here ? of_here : of_next)[static_cast<std::size_t>(e) * parts(ranks) + p];
        if (entries.empty()) continue;
        const double most = std::min<double>(static_cast<double>(entries.size()), ranks_in[p] * problem_.most());
        for (int r = 0; r < problem_.ranks(); ++r)
          if (part_of(r) == p) entries.emplace_back(x(here ? layer : layer + 1, e, r), -most);
        add_row(-kInfinity, 0, entries);
      }
}

Assignment PairProgram::assignment(const std::vector<double>& columns) const {
  Assignment made(problem_.layers(), std::vector<int>(problem_.experts()));
  for (int l = 0; l < problem_.layers(); ++l)
    for (int e = 0; e < problem_.experts(); ++e) {
      if (problem_.is_fixed(l)) {
        made[l][e] = problem_.fixed[l][e];
        continue;
      }
      for (int r = 1; r < problem_.ranks(); ++r)
        if (columns[x(l, e, r)] > columns[x(l, e, made[l][e])]) made[l][e] = r;
    }
  return made;
}

/// With ranks named in the order in which layer 0 uses them.
Assignment PairProgram::renamed(const Assignment& assignment) const {
  std::vector<int> name(problem_.ranks(), -1);
  int next = 0;
  for (const int r : assignment[0])
    if (name[r] < 0) name[r] = next++;
  for (int& n : name)
    if (n < 0) n = next++;
  Assignment made = assignment;
  for (auto& layer : made)
    for (int& r : layer) r = name[r];
  return made;
}

std::vector<double> PairProgram::columns(const Assignment& assignment) const {
  const Assignment from = first_names_ ? renamed(assignment) : assignment;
  std::vector<double> values(program_.columns(), 0);
  for (int l = 0; l < problem_.layers(); ++l)
    for (int e = 0; e < problem_.experts() && !problem_.is_fixed(l); ++e) values[x(l, e, from[l][e])] = 1;
  for (const Pair& pair : pairs_) {
    const int here = from[pair.layer][pair.i];
    const int next = from[pair.layer + 1][pair.j];
    const int part = pair.ranks ? here : node_[here];
    if (part == (pair.ranks ? next : node_[next])) values[pair.first + part] = 1;
  }
  return values;
}

}  // namespace coterie
