// The placement problem and its parts: what is given, what is asked for, what it costs.
#pragma once

#include "placement/topology.hpp"
#include "placement/trace/statistics.hpp"

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

enum class Objective {
  affinity,  ///< largest share of the weight between consecutive layers that stays on a rank (ExFlow)
  traffic,   ///< fewest priced rows that the runtime would send, by the landing rule of the coherence domain
  load,      ///< lightest heaviest rank
};

/// The ranks that hold a sequence's KV cache: a token may stay on any of them.
enum class Domain { rank, node, world };

/// "affinity", ...; throws InputError for any other text, which says that it was found at `where`.
[[nodiscard]] Objective objective_of(std::string_view name, std::string_view where = "objective");
[[nodiscard]] std::string_view name_of(Objective objective) noexcept;
[[nodiscard]] Domain domain_of(std::string_view name, std::string_view where = "domain");
[[nodiscard]] std::string_view name_of(Domain domain) noexcept;

/// What a row costs on a link. Inside a rank it costs nothing.
struct LinkPrices {
  double inside_node = 1;
  double between_nodes = 8;
};

/// Without replicas a placement is a rank for every expert: (layers, experts) -> rank.
using Assignment = std::vector<std::vector<int>>;
/// With replicas it is the ranks that hold the expert, ascending, at least one: (layers, experts) -> ranks.
using Owners = std::vector<std::vector<std::vector<int>>>;

struct Problem {
  Objective objective = Objective::traffic;
  Domain domain = Domain::world;
  Topology topology;
  LinkPrices prices;
  std::optional<double> balance = 1.1;  ///< heaviest rank over mean rank, per layer; none: no limit
  int slots_per_rank = 0;               ///< experts of a layer that fit a rank; 0: ceil((experts + replicas) / ranks)
  bool equal_counts = true;             ///< every rank holds floor or ceil of experts / ranks
  int replicas = 0;                     ///< further copies of experts to place, per layer
  Assignment fixed;                     ///< (layers): the ranks of a layer's experts where they are given; empty: free

  Statistics statistics;              ///< of `traces`; by gate weight for affinity, plain counts for traffic and load
  std::vector<WeightedTrace> traces;  ///< the tokens themselves: traffic needs whole choices, not pairs
  int top = 0;                        ///< of each token only the first `top` choices count; 0: all

  [[nodiscard]] int layers() const noexcept { return statistics.layers; }
  [[nodiscard]] int experts() const noexcept { return statistics.experts; }
  [[nodiscard]] int ranks() const noexcept { return topology.ranks(); }
  [[nodiscard]] bool is_fixed(int layer) const { return !fixed.empty() && !fixed[layer].empty(); }
  /// Experts of a layer that a rank may hold, at least and at most (without replicas).
  [[nodiscard]] int fewest() const noexcept;
  [[nodiscard]] int most() const noexcept;
  /// Slots of a rank, replicas included.
  [[nodiscard]] int slots() const noexcept;
  /// Rows that a rank may have at a layer by `balance`; infinity without a limit.
  [[nodiscard]] double load_limit(int layer) const;
};

/// Price of a row from rank to rank, row-major (ranks, ranks); 0 on the diagonal.
[[nodiscard]] std::vector<double> link_prices(const Topology& topology, const LinkPrices& prices);

/// What a placement costs. Per token and layer: divided by tokens x layers.
struct Figures {
  double value = 0;  ///< the problem's objective: `affinity`, `priced` or `load_mean`
  double affinity =
      0;  ///< kept weight / weight; a pair that crosses ranks keeps 1 - price / dearest price of the topology
  double stays = 0;         ///< share of the weight between consecutive layers that stays on a rank
  double priced = 0;        ///< priced rows per token and layer
  double rows = 0;          ///< rows that leave a rank, per token and layer
  double rows_between = 0;  ///< of them between nodes
  double load_mean = 0;     ///< heaviest rank over mean rank, mean over the layers
  double load_worst = 0;    ///< the same, worst layer
};

/// The rules that `traffic` counts by (design: where a token goes next). For each token and layer, with S the ranks
/// that compute for it:
///   start    a token starts the first layer at its home; homes are spread evenly over the ranks, so that the figures
///   are
///            the mean over all homes, and tokens are independent of one another;
///   copies   one row from the resident rank to every other rank of S, and to the landing rank where that is not in S;
///   landing  among the ranks of S in the domain, the largest sum of the token's gate weights (without weights, or with
///            equal sums: the most choices; then the one that has the earliest choice in the trace's order); none:
///            home;
///   partial  one row from every rank of S but the landing rank to the landing rank, which is resident at the next
///   layer.
/// A token without experts at a layer stays where it is. Domain `rank` thus sends 2 (D - [home among them]) rows for D
/// distinct ranks; `world` sends (D - [resident among them]) + (D - 1).
/// With replicas a token has one home, its row in the trace mod ranks, and an expert, in the order of the choices, runs
/// on: the resident rank if it holds the expert; else a rank that already computes for the token; else a replica in the
/// resident rank's node; else any replica. Where several are left: of n in ascending order, number (row / ranks) mod n.
[[nodiscard]] Figures measure(const Problem& problem, const Owners& owners);
[[nodiscard]] Figures measure(const Problem& problem, const Assignment& assignment);
/// (layers, ranks): rows that each rank computes. With replicas counted over the traces by the rules above; without
/// traces an expert's rows are shared evenly by its ranks.
[[nodiscard]] std::vector<double> rank_rows(const Problem& problem, const Owners& owners);
/// (layers - 1): share of the weight between a layer and the next that stays on a rank. Empty without affinity.
[[nodiscard]] std::vector<double> stays_by_layer(const Problem& problem, const Owners& owners);
/// (ranks, ranks): rows from rank to rank, per token and layer, by the rules above. Empty without traces.
[[nodiscard]] std::vector<double> rows_between_ranks(const Problem& problem, const Owners& owners);
/// (layers - 1, groups, groups): share of the tokens whose largest sum of gate weights at layer l is computed in one
/// group of ranks and at l + 1 in another: where domain `world` would land them. `group_of_rank`: (ranks) ids from 0.
/// Empty without traces.
[[nodiscard]] std::vector<double> moves_between(const Problem& problem, const Owners& owners,
                                                std::span<const int> group_of_rank);
/// The problem's objective for a complete placement; affinity: larger is better, traffic and load: smaller.
[[nodiscard]] double evaluate(const Problem& problem, const Assignment& assignment);
[[nodiscard]] double evaluate(const Problem& problem, const Owners& owners);
/// The same; nothing when `stop`, which is asked now and then, became true before the end.
[[nodiscard]] std::optional<double> evaluate(const Problem& problem, const Owners& owners,
                                             const std::function<bool()>& stop);
/// True when a is strictly better than b under the objective.
[[nodiscard]] bool better(Objective objective, double a, double b) noexcept;

/// Empty, or "infeasible: …" with the first limit that is broken, the layer and the rank.
[[nodiscard]] std::string check_limits(const Problem& problem, const Assignment& assignment);
[[nodiscard]] std::string check_limits(const Problem& problem, const Owners& owners);
/// `rank_rows`, (layers, ranks), are known; needed only with a load limit.
[[nodiscard]] std::string check_limits(const Problem& problem, const Owners& owners, std::span<const double> rank_rows);

/// All there is to say of a placement, in one pass over the tokens.
struct Assessment {
  Figures figures;
  std::string broken;  ///< check_limits
};
/// Nothing when `stop`, which is asked now and then, became true before the end.
[[nodiscard]] std::optional<Assessment> assess(const Problem& problem, const Owners& owners,
                                               const std::function<bool()>& stop = {});
/// Empty, or "infeasible: …" for a limit that no placement can keep: slots, or an expert that is too heavy by itself.
[[nodiscard]] std::string check_feasible(const Problem& problem);

/// Experts dealt in order, the first experts % ranks ranks one more.
[[nodiscard]] Assignment contiguous_assignment(const Problem& problem);
[[nodiscard]] Owners owners_of(const Assignment& assignment);
/// (layers, ranks * slots): experts ascending within a rank, then empty slots (-1), as a plan has them.
[[nodiscard]] std::vector<std::vector<int>> slots_of(const Problem& problem, const Owners& owners);
/// Layers [first, first + count) as a problem of their own; traces are left out, so traffic can't be measured on it.
[[nodiscard]] Problem window_of(const Problem& problem, int first, int count);

}  // namespace coterie
