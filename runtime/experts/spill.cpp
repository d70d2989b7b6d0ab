#include "runtime/experts/spill.hpp"

#include <algorithm>
#include <cstring>

namespace coterie {
namespace {

constexpr std::size_t kMicroBatches = 2;
constexpr std::int64_t kManyMore = 2;       // times the rows
constexpr int kLongestVain = 6;             // then every 64th call is planned
constexpr std::int64_t kUnknown = 1 << 16;  // tokens of the first step: enough that counts are gathered

}  // namespace

Spill::Spill(const SpillOptions& options, std::vector<DispatchLayer> layers, int rank, Device& device)
    : options_(options),
      layers_(std::move(layers)),
      patience_(layers_.size()),
      rank_(rank),
      device_(device),
      planner_(options.costs, options.dispatch),
      ledger_(layers_.front().ranks, static_cast<int>(layers_.size()), layers_.front().experts, options.cache_bytes,
              options.expert_bytes),
      tokens_(kMicroBatches, kUnknown) {
  for (const DispatchLayer& layer : layers_) replicated_.push_back(layer.holders > layer.experts);
}

bool Spill::may_pay(int layer, std::int64_t rows) {
  if (layers_.front().ranks == 1 || rows < 1) return false;
  switch (options_.dispatch.policy) {
    case DispatchPolicy::plain:
      return false;
    case DispatchPolicy::llep:
      return true;  // it doesn't ask what a spill costs
    case DispatchPolicy::least_loaded:
      break;
  }
  const bool spare = replicated_[layer] || !ledger_.kept(layer).empty();
  if (!spill_may_pay(options_.costs, rows, spare, options_.counts_gather)) return false;
  Patience& patience = patience_[layer];
  if (patience.wait > 0 && rows <= kManyMore * patience.rows) {
    --patience.wait;
    return false;
  }
  patience.rows = rows;
  return true;
}

const DispatchPlan& Spill::plan(int layer, std::span<const std::int32_t> counts, SpillCall& call) {
  const std::span<const std::uint8_t> cached = ledger_.kept(layer);
  if (options_.planner) own_ = options_.planner(layers_[layer], counts, cached);
  const DispatchPlan& plan = options_.planner ? own_ : planner_.plan(layers_[layer], counts, cached);
  Patience& patience = patience_[layer];
  patience.in_vain =
      plan.before - plan.after > options_.counts_gather ? 0 : std::min(patience.in_vain + 1, kLongestVain);
  patience.wait = (1 << patience.in_vain) - 1;
  call.planned = true;
  call.spilled = plan.stayed == DispatchPlan::Stayed::spilled;
  call.travels = !plan.transfers.empty();
  if (!call.spilled) return plan;
  call.transfers = transfers_of(plan, rank_);
  std::vector<std::pair<int, int>> uses;  // expert, rank
  for (const DispatchPart& part : plan.parts) {
    if (layers_[layer].held[static_cast<std::size_t>(part.expert) * layers_[layer].ranks + part.rank] != 0) continue;
    uses.emplace_back(part.expert, part.rank);
  }
  std::sort(uses.begin(), uses.end());
  uses.erase(std::unique(uses.begin(), uses.end()), uses.end());
  for (const auto& [expert, rank] : uses) {  // before anything makes place for another
    if (rank != rank_ || !ledger_.keeps({layer, expert}, rank)) continue;
    const auto& kept = kept_.at({layer, expert});
    call.experts[expert] = {kept, &kept->weights};
    ++hits_;
  }
  for (const auto& [expert, rank] : uses) ledger_.use({layer, expert}, rank);
  std::erase_if(kept_, [&](const auto& entry) { return !ledger_.keeps(entry.first, rank_); });
  return plan;
}

void Spill::take(int layer, const ExpertParcel& parcel, const Gating& gating, SpillCall& call) {
  const SpillLedger::Key key{layer, parcel.expert};
  if (!ledger_.keeps(key, rank_)) {
    call.experts[parcel.expert] = std::make_shared<const ExpertWeights>(open_parcel(parcel, gating, device_));
    return;
  }
  DeviceMemory memory = device_.allocate(parcel.bytes.size());
  std::memcpy(memory.get(), parcel.bytes.data(), parcel.bytes.size());
  ExpertWeights weights = open_parcel({parcel.expert, {memory.get(), parcel.bytes.size()}}, gating, device_);
  const auto kept = std::make_shared<const Kept>(std::move(memory), std::move(weights));
  kept_[key] = kept;
  call.experts[parcel.expert] = {kept, &kept->weights};
}

void Spill::drop() {
  ledger_.clear();
  kept_.clear();
}

std::vector<DispatchLayer> dispatch_layers(const Plan& plan, const Ownership& ownership,
                                           std::span<const int> node_of_rank) {
  std::vector<DispatchLayer> layers;
  const auto ranks = static_cast<std::size_t>(plan.ranks());
  for (int layer = 0; layer < plan.layers(); ++layer) {
    std::vector<int> destinations;
    for (int from = 0; from < plan.ranks(); ++from) {
      const auto of_rank = ownership.destinations(layer, from);
      destinations.insert(destinations.end(), of_rank.begin(), of_rank.end());
    }
    std::vector<std::uint8_t> held(plan.experts * ranks, 0);
    for (int expert = 0; expert < plan.experts; ++expert) {
      for (const int owner : plan.owners(layer, expert)) held[expert * ranks + owner] = 1;
    }
    layers.emplace_back(std::vector<int>(node_of_rank.begin(), node_of_rank.end()), std::move(destinations),
                        std::move(held));
  }
  return layers;
}

}  // namespace coterie
