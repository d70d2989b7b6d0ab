// A placement plan: for every layer and every physical slot of every rank, a logical expert. File format:
// coterie.plan/1 (JSON).
#pragma once

#include "placement/topology.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

/// What is known about how good a plan is, and the rules that its figures were counted by, so that anyone can count
/// again.
struct Certificate {
  std::string objective;           ///< "affinity", "traffic" or "load"
  std::string domain;              ///< "rank", "node" or "world": the coherence domain that traffic is counted for
  double price_inside_node = 1;    ///< of a row between ranks of a node
  double price_between_nodes = 8;  ///< of a row between nodes
  double balance = 0;              ///< the load limit, heaviest rank over mean; 0: none
  int top = 0;                     ///< choices of a token that count; 0: all
  bool by_gate = false;            ///< pairs are weighted by gate weights
  double holdout = 0;              ///< share of the sequences that the figures leave out (chosen by seed)
  double value = 0;  ///< affinity: share of the weight that stays on a rank; traffic: priced rows per token and layer
  double baseline = 0;     ///< the same for the contiguous placement
  double bound = 0;        ///< no placement can be better than this
  double gap = 0;          ///< |bound - value| / value
  std::string bound_kind;  ///< "dp", "ilp", "dnn+triangles", ...; empty: nothing was proven, bound and gap mean nothing
  std::string solver;
  double seconds = 0;
  std::uint64_t seed = 0;
};

/// A trace that a plan was made from; `weight`, `first`, `count` as in WeightedTrace.
struct PlanSource {
  std::string file;
  std::string digest;  ///< "sha256:…"
  double weight = 1;
  std::int64_t first = 0;
  std::int64_t count = -1;
};

struct Plan {
  static constexpr int kEmptySlot = -1;

  std::string model;
  std::vector<int> layer_ids;  ///< (layers): which layer of the model each row is
  int experts = 0;
  int top_k = 0;
  Topology topology;
  int slots_per_rank = 0;
  std::vector<std::vector<int>> physical_to_logical;  ///< (layers, ranks * slots_per_rank); rank r has [r*S, (r+1)*S)
  std::optional<Certificate> certificate;
  std::vector<PlanSource> sources;

  [[nodiscard]] int layers() const noexcept { return static_cast<int>(layer_ids.size()); }
  [[nodiscard]] int ranks() const noexcept { return topology.ranks(); }
  /// The ranks that hold `expert` at row `layer` of the plan, ascending. Never empty in a valid plan.
  [[nodiscard]] std::vector<int> owners(int layer, int expert) const;
};

/// Experts dealt in order, the first experts % ranks ranks one more; spare slots are empty.
[[nodiscard]] Plan contiguous_plan(const std::string& model, const std::vector<int>& layer_ids, int experts, int top_k,
                                   const Topology& topology);

/// Throws InputError (file, field, found, expected): wrong format, rows of wrong length, ids out of range, an expert
/// without owner, the same expert twice on a rank.
[[nodiscard]] Plan read_plan(const std::filesystem::path& path);
/// Replaces `path` in one step. Throws InputError when it can't be written.
void write_plan(const std::filesystem::path& path, const Plan& plan);
/// What read_plan checks; `where` stands for the file in messages.
void validate(const Plan& plan, const std::string& where);

}  // namespace coterie
