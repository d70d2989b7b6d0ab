#include "placement/formats/slot_rows.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <limits>

namespace coterie {
namespace {

int expert_count(const SlotRows& rows, const FormatOptions& options) {
  int largest = 0;
  for (const auto& row : rows)
    if (!row.empty()) largest = std::max(largest, *std::max_element(row.begin(), row.end()));
  return options.experts > 0 ? options.experts : largest + 1;
}

/// A plan but for its slots.
Plan frame(std::vector<int> layer_ids, int experts, const FormatOptions& options, const std::string& where) {
  if (options.top_k == 0) throw bad_field(where, "experts per token", "nothing", "--top-k: the format doesn't say it");
  Plan plan;
  plan.model = options.model;
  plan.layer_ids = std::move(layer_ids);
  plan.experts = experts;
  plan.top_k = options.top_k;
  return plan;
}

/// Empties slots whose expert the rank has already; answers how many.
int empty_copies(std::vector<int>& row, std::size_t slots_per_rank) {
  int emptied = 0;
  for (auto rank = row.begin(); rank != row.end(); rank += static_cast<std::ptrdiff_t>(slots_per_rank))
    for (std::size_t s = 1; s < slots_per_rank; ++s) {
      const auto slot = rank + static_cast<std::ptrdiff_t>(s);
      if (*slot == Plan::kEmptySlot || std::find(rank, slot, *slot) == slot) continue;
      *slot = Plan::kEmptySlot;
      ++emptied;
    }
  return emptied;
}

void fill_empty(std::vector<int>& row, const Plan& plan) {
  std::vector<int> copies(static_cast<std::size_t>(plan.experts));
  for (const int e : row)
    if (e != Plan::kEmptySlot) ++copies[e];
  for (auto rank = row.begin(); rank != row.end(); rank += plan.slots_per_rank) {
    const auto end = rank + plan.slots_per_rank;
    for (auto slot = std::find(rank, end, Plan::kEmptySlot); slot != end;
         slot = std::find(rank, end, Plan::kEmptySlot)) {
      int fewest = -1;
      for (int e = 0; e < plan.experts; ++e)
        if (std::find(rank, end, e) == end && (fewest < 0 || copies[e] < copies[fewest])) fewest = e;
      *slot = fewest;
      ++copies[fewest];
    }
  }
}

}  // namespace

std::vector<int> moe_layers(std::size_t count, const FormatOptions& options, const std::string& where) {
  if (!options.layer_ids.empty()) {
    if (options.layer_ids.size() != count)
      throw bad_field(where, "layers", std::to_string(count),
                      std::to_string(options.layer_ids.size()) + ", as --layer-ids says");
    return options.layer_ids;
  }
  std::vector<int> ids;
  for (int layer = 0; ids.size() < count; ++layer)
    if (std::count(options.dense_layers.begin(), options.dense_layers.end(), layer) == 0) ids.push_back(layer);
  if (options.hidden_layers > 0 && !ids.empty() && ids.back() >= options.hidden_layers)
    throw bad_field(where, "layers", std::to_string(count) + " MoE layers",
                    "fewer: --num-hidden-layers is " + std::to_string(options.hidden_layers));
  return ids;
}

Plan plan_of_slots(SlotRows slots, std::vector<int> layer_ids, const FormatOptions& options, const std::string& where) {
  if (slots.empty()) throw bad_field(where, "layers", "no MoE layer", "at least one; --dense-layers names the others");
  if (!options.topology)
    throw bad_field(where, "ranks", "nothing", "--ranks: the format doesn't say how many there are");
  Plan plan = frame(std::move(layer_ids), expert_count(slots, options), options, where);
  plan.topology = *options.topology;
  const std::size_t width = slots.front().size();
  const auto ranks = static_cast<std::size_t>(plan.ranks());
  if (width == 0 || width % ranks != 0)
    throw bad_field(where, "slots of a layer", std::to_string(width),
                    "a multiple of the " + std::to_string(ranks) + " ranks");
  plan.slots_per_rank = static_cast<int>(width / ranks);
  int emptied = 0;
  for (std::size_t l = 0; l < slots.size(); ++l) {
    if (slots[l].size() != width)
      throw bad_field(where, "slots of row " + std::to_string(l), std::to_string(slots[l].size()),
                      std::to_string(width) + ", as in the first row");
    emptied += empty_copies(slots[l], width / ranks);
  }
  if (emptied > 0 && options.note)
    options.note(where + ": " + std::to_string(emptied) +
                 " slots held an expert that their rank has already: now empty");
  plan.physical_to_logical = std::move(slots);
  validate(plan, where);
  return plan;
}

Plan plan_of_ranks(const SlotRows& ranks, std::vector<int> layer_ids, const FormatOptions& options,
                   const std::string& where) {
  int largest = 0;
  for (const auto& row : ranks)
    for (const int r : row) {
      if (r < 0) throw bad_field(where, "rank", std::to_string(r), "at least 0");
      largest = std::max(largest, r);
    }
  const int experts = ranks.empty() ? 0 : static_cast<int>(ranks.front().size());
  Plan plan = frame(std::move(layer_ids), experts, options, where);
  if (options.topology)
    plan.topology = *options.topology;
  else
    plan.topology.ranks_per_node = {largest + 1};
  if (largest >= plan.ranks())
    throw bad_field(where, "rank", std::to_string(largest), "below " + std::to_string(plan.ranks()));

  std::vector<std::vector<std::vector<int>>> held;  // (layers, ranks): experts
  std::size_t most = 1;
  for (const auto& row : ranks) {
    auto& layer = held.emplace_back(static_cast<std::size_t>(plan.ranks()));
    for (std::size_t e = 0; e < row.size(); ++e) layer[row[e]].push_back(static_cast<int>(e));
    for (const auto& rank : layer) most = std::max(most, rank.size());
  }
  plan.slots_per_rank = static_cast<int>(most);
  for (auto& layer : held) {
    auto& row = plan.physical_to_logical.emplace_back();
    for (auto& rank : layer) {
      rank.resize(most, Plan::kEmptySlot);
      row.insert(row.end(), rank.begin(), rank.end());
    }
  }
  validate(plan, where);
  return plan;
}

SlotRows full_slots(const Plan& plan, const FormatOptions& options, const std::string& system) {
  SlotRows rows = plan.physical_to_logical;
  for (int l = 0; l < plan.layers(); ++l) {
    const auto empty = std::count(rows[l].begin(), rows[l].end(), Plan::kEmptySlot);
    if (empty == 0) continue;
    if (!options.fill)
      throw InputError("plan: layer " + std::to_string(plan.layer_ids[l]) + " has " + std::to_string(empty) +
                       " empty slots, and " + system +
                       " needs an expert in every slot, as many on every rank; --fill puts replicas there");
    fill_empty(rows[l], plan);
  }
  return rows;
}

SlotRows sole_ranks(const Plan& plan, const std::string& system) {
  SlotRows rows;
  for (int l = 0; l < plan.layers(); ++l) {
    auto& row = rows.emplace_back();
    for (int e = 0; e < plan.experts; ++e) {
      const auto owners = plan.owners(l, e);
      if (owners.size() != 1)
        throw InputError("plan: expert " + std::to_string(e) + " of layer " + std::to_string(plan.layer_ids[l]) +
                         " is on " + std::to_string(owners.size()) + " ranks, and " + system + " can name one only");
      row.push_back(owners.front());
    }
  }
  return rows;
}

}  // namespace coterie
