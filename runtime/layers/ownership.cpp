#include "runtime/layers/ownership.hpp"

#include "placement/dispatch/nearest_holders.hpp"
#include "placement/input_error.hpp"

#include <algorithm>

namespace coterie {
namespace {

std::string list(const std::vector<int>& values) {
  std::string text = "[";
  for (const int v : values) text.append(text.size() > 1 ? ", " : "").append(std::to_string(v));
  return text + "]";
}

}  // namespace

Ownership::Ownership(const Plan& plan, int rank, std::span<const int> node_of_rank)
    : ranks_(plan.ranks()), experts_(static_cast<std::size_t>(plan.experts)), held_(plan.layers()) {
  for (int layer = 0; layer < plan.layers(); ++layer) {
    const std::size_t first = destinations_.size();
    destinations_.resize(first + ranks_ * experts_);
    for (int expert = 0; expert < plan.experts; ++expert) {
      const std::vector<int> owners = plan.owners(layer, expert);
      if (std::binary_search(owners.begin(), owners.end(), rank)) held_[layer].push_back(expert);
      const std::vector<int> nearest = nearest_holders(owners, node_of_rank);
      for (int from = 0; from < ranks_; ++from) destinations_[first + from * experts_ + expert] = nearest[from];
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
