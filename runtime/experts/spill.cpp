#include "runtime/experts/spill.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace coterie {
namespace {

constexpr std::size_t kMicroBatches = 2;
constexpr std::int64_t kManyMore = 2;        // times the rows
constexpr int kLongestVain = 6;              // then every 64th call is planned
constexpr int kSurely = 3;                   // times what a plan costs it must gain: gains of twice that were none
constexpr std::int64_t kGrowthShare = 16;    // of the overhead, with each gather, until a shorter one is seen
constexpr std::int64_t kGrowth = 1'000'000;  // picoseconds, the same
constexpr std::int64_t kUnknown = 1 << 16;   // tokens of the first step: enough that counts are gathered

using Clock = std::chrono::steady_clock;

std::int64_t picoseconds_since(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count() * 1000;
}

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
      tokens_(kMicroBatches, kUnknown),
      overhead_(options.counts_gather) {
  for (const DispatchLayer& layer : layers_) replicated_.push_back(layer.holders > layer.experts);
}

bool Spill::may_pay(int layer, std::int64_t rows) {
  const bool can_pay = can_ever_pay(layer, rows);
  Patience& patience = patience_[layer];
  if (!can_pay) {
    ++counts_.skipped;
  } else if (patience.wait > 0 && rows <= kManyMore * patience.rows) {
    --patience.wait;
    ++counts_.paused;
  } else {
    patience.rows = rows;
    return true;
  }
  return false;
}

bool Spill::can_ever_pay(int layer, std::int64_t rows) const {
  if (layers_.front().ranks == 1 || rows < 1) return false;
  if (options_.dispatch.policy == DispatchPolicy::llep) return true;  // it doesn't ask what a spill costs
  const bool spare = replicated_[layer] || !ledger_.kept(layer).empty();
  return spill_may_pay(options_.costs, rows, spare, overhead_);
}

std::vector<std::int32_t> Spill::gather(Communicator& comm, std::span<const std::int32_t> mine, const Place& place) {
  struct Head {
    std::uint64_t digest = 0;
    std::uint64_t weights_changed = 0;
    std::int64_t last_gather = 0, last_plan = 0;
  };
  const Head head{ledger_.digest(), std::exchange(weights_changed_, false) ? 1U : 0U, last_gather_, last_plan_};
  std::vector<std::byte> bytes(sizeof head + mine.size_bytes());
  std::memcpy(bytes.data(), &head, sizeof head);
  if (!mine.empty()) std::memcpy(bytes.data() + sizeof head, mine.data(), mine.size_bytes());
  std::vector<std::int32_t> all;
  bool changed = false;
  std::int64_t last_gather = head.last_gather, last_plan = 0;
  const auto begin = Clock::now();
  const auto gathered = comm.all_gather(bytes, place);
  last_gather_ = picoseconds_since(begin);
  for (const auto& theirs : gathered) {
    const std::string rank = "rank " + std::to_string(all.size() / std::max<std::size_t>(1, mine.size()));
    if (theirs.size() != bytes.size()) {
      throw CommError(to_string(place) + ": " + rank + " has another number of experts");
    }
    Head other;
    std::memcpy(&other, theirs.data(), sizeof other);
    if (other.digest != head.digest) {
      throw CommError(to_string(place) + ": " + rank + " knows the spill caches otherwise than rank " +
                      std::to_string(rank_));
    }
    changed = changed || other.weights_changed != 0;
    last_gather = std::min(last_gather, other.last_gather);  // who came last waited for nobody
    last_plan = std::max(last_plan, other.last_plan);
    all.resize(all.size() + mine.size());
    std::memcpy(&*(all.end() - static_cast<std::ptrdiff_t>(mine.size())), theirs.data() + sizeof head,
                mine.size_bytes());
  }
  if (options_.measures_gather && last_plan > 0) {
    overhead_ = std::min(last_gather + last_plan, overhead_ + overhead_ / kGrowthShare + kGrowth);
  }
  if (changed) {
    ledger_.clear();
    kept_.clear();
  }
  return all;
}

const DispatchPlan& Spill::plan(int layer, std::span<const std::int32_t> counts, SpillCall& call) {
  const auto begin = Clock::now();
  const std::span<const std::uint8_t> cached = ledger_.kept(layer);
  if (options_.planner) own_ = options_.planner(layers_[layer], counts, cached);
  const DispatchPlan& plan = options_.planner ? own_ : planner_.plan(layers_[layer], counts, cached);
  Patience& patience = patience_[layer];
  const bool pays = options_.dispatch.policy == DispatchPolicy::llep ||  // it doesn't ask
                    plan.before - plan.after > kSurely * overhead_;
  patience.in_vain = pays ? 0 : std::min(patience.in_vain + 1, kLongestVain);
  patience.wait = (1 << patience.in_vain) - 1;
  counts_.add(plan, layers_[layer], counts, rank_);
  call.planned = true;
  call.departed = Clock::now();
  call.spilled = plan.stayed == DispatchPlan::Stayed::spilled;
  call.travels = !plan.transfers.empty();
  if (!call.spilled) {
    last_plan_ = picoseconds_since(begin);
    return plan;
  }
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
    ++counts_.cache_hits;
  }
  for (const auto& [expert, rank] : uses) ledger_.use({layer, expert}, rank);
  std::erase_if(kept_, [&](const auto& entry) { return !ledger_.keeps(entry.first, rank_); });
  last_plan_ = picoseconds_since(begin);
  return plan;
}

void Spill::take(int layer, Inbox& arrived, const std::function<Gating(int expert)>& gating, SpillCall& call) {
  for (const DispatchTransfer& get : call.transfers.gets) {
    Message& message = arrived[get.from];
    const auto parcels = parcels_of({message.section(Section::forms), message.section(Bulk::weights)});
    const auto parcel = std::find_if(parcels.begin(), parcels.end(),
                                     [&](const ExpertParcel& p) { return p.form.expert == get.expert; });
    if (parcel == parcels.end()) {
      throw CommError("layer " + std::to_string(layer) + ": expert " + std::to_string(get.expert) +
                      " did not come from rank " + std::to_string(get.from));
    }
    const SpillLedger::Key key{layer, get.expert};
    std::shared_ptr<const ExpertWeights>& weights = call.experts[get.expert];
    if (!ledger_.keeps(key, rank_)) {
      weights = std::make_shared<const ExpertWeights>(open_parcel(*parcel, gating(get.expert), device_));
      continue;
    }
    DeviceMemory memory = device_.allocate(parcel->bytes.size());
    const DeviceBytes bytes(memory.get(), parcel->bytes.size());
    device_.copy(parcel->bytes.span(), bytes.span());
    ExpertWeights copy = open_parcel({parcel->form, bytes}, gating(get.expert), device_);
    const auto kept = std::make_shared<const Kept>(Kept{std::move(memory), std::move(copy)});
    kept_[key] = kept;
    weights = {kept, &kept->weights};
  }
}

void Spill::done(const SpillCall& call) {
  if (!call.planned) return;
  const std::chrono::duration<double> taken = Clock::now() - call.departed;
  counts_.measured += taken.count();
}

void Spill::drop() {
  ledger_.close();
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
