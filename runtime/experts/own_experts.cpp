#include "runtime/experts/own_experts.hpp"

#include "runtime/experts/shared_expert.hpp"

#include <span>
#include <vector>

namespace coterie {
namespace {

std::unique_ptr<ExpertSet> set_of(const MoeWeights& weights, Device& device) {
  std::vector<const ExpertWeights*> experts;
  for (const auto& expert : weights.experts) experts.push_back(expert.get());
  return device.expert_set(std::move(experts));
}

}  // namespace

OwnExperts::OwnExperts(const MoeSpec& spec, float residual_scale, const LayerWeights& weights, Device& device,
                       PhaseSeconds& phases)
    : spec_(spec),
      residual_scale_(residual_scale),
      weights_(weights),
      device_(device),
      phases_(phases),
      experts_(set_of(weights.moe, device)) {}

void OwnExperts::add(const Tensor& x, std::int32_t* pairs, Scratch& scratch) const {
  const MoeWeights& moe = weights_.moe;
  const Tensor normed = scratch.take(x.rows, x.cols);
  RowGroups groups;
  {
    const Timed timed(phases_.router);
    weights_.mlp_norm.apply(device_, x, normed);
    groups = device_.group(normed, *moe.router, spec_.router, {moe.router_bias.view, moe.router_correction.view});
    device_.copy(std::as_bytes(std::span(groups.first + groups.experts, 1)),
                 std::as_writable_bytes(std::span(pairs, 1)));
  }
  const Timed timed(phases_.experts);
  device_.add_experts(normed, groups, *experts_, residual_scale_, x);
  if (!spec_.shared) return;
  const Tensor out = scratch.take(x.rows, x.cols);
  device_.experts(normed, std::vector<ExpertRows>{{moe.shared.get(), 0, x.rows}}, out);
  device_.add(weigh_shared(device_, moe, residual_scale_, normed, out, scratch), 1, x);
}

}  // namespace coterie
