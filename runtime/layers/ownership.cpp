#include "runtime/layers/ownership.hpp"

#include "placement/input_error.hpp"

#include <algorithm>

namespace coterie {
namespace {

int destination(const std::vector<int>& owners, int rank, std::span<const int> node_of_rank) {
  if (std::binary_search(owners.begin(), owners.end(), rank)) return rank;
  std::vector<int> near;
  for (const int owner : owners) {
    if (node_of_rank[owner] == node_of_rank[rank]) near.push_back(owner);
  }
  const std::vector<int>& choice = near.empty() ? owners : near;
  return choice[static_cast<std::size_t>(rank) % choice.size()];
}

std::string list(const std::vector<int>& values) {
  std::string text = "[";
  for (const int v : values) text.append(text.size() > 1 ? ", " : "").append(std::to_string(v));
  return text + "]";
}

}  // namespace

Ownership::Ownership(const Plan& plan, int rank, std::span<const int> node_of_rank)
    : ranks_(plan.ranks()), experts_(static_cast<std::size_t>(plan.experts)), held_(plan.layers()) {
  for (int layer = 0; layer < plan.layers(); ++layer) {
    std::vector<std::vector<int>> owners;
    for (int expert = 0; expert < plan.experts; ++expert) {
      owners.push_back(plan.owners(layer, expert));
      if (std::binary_search(owners.back().begin(), owners.back().end(), rank)) held_[layer].push_back(expert);
    }
    for (int from = 0; from < ranks_; ++from) {
      for (const std::vector<int>& of : owners) destinations_.push_back(destination(of, from, node_of_rank));
    }
  }
}

void check_plan(const Plan& plan, const std::string& file, const std::vector<int>& layer_ids, int experts, int ranks) {
  if (plan.layer_ids != layer_ids) {
    throw bad_field(file, "model.layer_ids", list(plan.layer_ids), "the model's MoE layers " + list(layer_ids));
  }
  if (plan.experts != experts) {
    throw bad_field(file, "model.experts", std::to_string(plan.experts),
                    "the model's " + std::to_string(experts) + " experts");
  }
  if (plan.ranks() != ranks) {
    throw bad_field(file, "topology", std::to_string(plan.ranks()) + " ranks",
                    "the " + std::to_string(ranks) + " ranks of this job");
  }
}

}  // namespace coterie
