// What one MoE layer's placement says, in the form that planning its dispatch needs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// Of the experts that several ranks hold, where rows go.
struct SharedExperts {
  /// Rows of the ranks [from, to) go to one.
  struct Run {
    int from = 0, to = 0, rank = 0;
  };
  enum Way { own, inside, between, ways };  ///< to itself, to another rank of the node, to another node

  [[nodiscard]] std::span<const Run> runs_of(int index) const {
    return std::span(runs).subspan(run_begin[index], run_begin[index + 1] - run_begin[index]);
  }
  [[nodiscard]] std::span<const int> holders_of(int index) const {
    return std::span(holders).subspan(holder_begin[index], holder_begin[index + 1] - holder_begin[index]);
  }

  std::vector<int> experts;       ///< ascending
  std::vector<int> run_begin;     ///< (shared + 1): in `runs`
  std::vector<Run> runs;          ///< an expert's cover all ranks, in order
  std::vector<int> holder_begin;  ///< (shared + 1): in `holders`
  std::vector<int> holders;       ///< of each expert ascending
  std::vector<int> way;           ///< (ranks, shared): ways * index in `holders` + the Way there
};

struct DispatchLayer {
  /// `destinations` is (ranks, experts): the rank, one that holds the expert, to which each rank's rows go. `held` is
  /// (experts, ranks): 1 where the rank holds the expert. Nodes are numbered from 0.
  DispatchLayer(std::vector<int> node_of_rank, std::vector<int> destinations, std::vector<std::uint8_t> held);

  int ranks, nodes, experts;
  int holders;                     ///< experts, each as often as it is held
  std::vector<int> node_of_rank;   ///< (ranks)
  std::vector<int> destinations;   ///< (ranks, experts)
  std::vector<std::uint8_t> held;  ///< (experts, ranks)
  std::vector<int> only_holder;    ///< (experts): the rank that holds it, -1 where several do
  std::vector<int> shared_index;   ///< (experts): in `shared`, -1 where one rank holds it
  SharedExperts shared;
  std::vector<std::uint8_t> detours;     ///< (experts): 1 where rows leave a rank that holds it
  std::vector<std::uint64_t> signature;  ///< (ranks): of what it holds

 private:
  void share(int expert);
  void find_ways();
};

}  // namespace coterie
