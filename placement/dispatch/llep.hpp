// The policy llep: least-loaded assignment and spill by rows, as LLEP states it (arXiv 2601.17111, Algorithms 2 to 4).
#pragma once

#include "placement/dispatch/dispatch_rows.hpp"

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace coterie {

/// Ties, which the paper leaves open, are broken by the order of DispatchLoads: of equally loaded ranks its first takes
/// rows, and an expert that several ranks hold belongs to its first of them.
class Llep {
 public:
  /// Decides where rows go. False where the heaviest rank is below the threshold, or none beyond the capacity: all go
  /// as the placement says.
  [[nodiscard]] bool solve(DispatchLoads& loads, const DispatchOptions& options);

  /// Which rows of an expert its ranks compute.
  enum class Rows {
    in_order,   ///< as the paper has it: those of rank 0 first, node by node
    own_first,  ///< as many, but a rank's own first, then its node's: each has at least as many of these as in order
  };
  /// What the plan takes: picoseconds of the slowest rank, and transfers. The smaller, the better.
  struct Price {
    std::int64_t time = 0;
    std::size_t transfers = 0;
    friend auto operator<=>(const Price&, const Price&) = default;
  };
  [[nodiscard]] const Price& price(Rows which);
  /// At most that of any rows, in less time.
  [[nodiscard]] const Price& least_price();
  /// The experts whose weights a rank gets by it, at most. price() was asked for.
  [[nodiscard]] int most_arrivals() const noexcept { return most_arrivals_; }
  /// Appends all rows, by expert and `from`, and each transfer that they need.
  void write(Rows which, DispatchRows& rows, DispatchPlan& plan);

 private:
  void find_price(Rows which);
  void find_least_price();
  /// Of an expert's rows those of a rank; of them those that come from its node; of these its own.
  struct Share {
    int rank = 0;
    std::int64_t rows = 0, near = 0, own = 0;
    int next = -1;  ///< of its node
  };
  static constexpr int kBlock = 8;

  void reserve(const DispatchLayer& layer);  ///< so that nothing else allocates
  /// Rows [from, to) of the expert in turn, after which the list goes on at `next`.
  void spill(std::int64_t from, std::int64_t to, std::size_t next);
  void set_load(int place, std::int64_t load);
  void list_later(int rank, std::size_t next);
  /// What a rank takes for an expert of which it has these rows, of them `near` from its node, of these `own` its own.
  [[nodiscard]] std::int64_t time(std::int64_t rows, std::int64_t near, std::int64_t own) const;
  [[nodiscard]] std::int64_t whole(int expert) const;  ///< for all rows, of its owner
  [[nodiscard]] std::span<const DispatchPart> chunks(int expert) const;
  /// Of a divided expert what each rank computes, in shares_.
  void share(int expert, Rows which);
  void deal_in_order(int expert, DispatchRows& rows) const;
  void write_own_first(int expert, std::vector<DispatchPart>& parts);

  std::int64_t capacity_ = 0, min_rows_ = 0;
  std::optional<Price> price_, least_price_;  ///< once they were asked for
  Rows priced_ = Rows::in_order;              ///< price_
  DispatchLoads* loads_ = nullptr;
  std::vector<int> owner_;                     ///< (experts)
  std::vector<int> first_owned_, next_owned_;  ///< (ranks), (experts): linked, -1 ends
  std::vector<std::int64_t> native_;           ///< (ranks): rows of the experts that it owns
  std::vector<std::int64_t> load_;             ///< (places): rows assigned and pending
  std::vector<int> least_;                     ///< of each kBlock places the first of the least loaded
  std::vector<std::uint8_t> listed_;           ///< (ranks): whether the list has its experts
  /// Experts of ranks that were beyond the capacity, the hottest first; the others stay where they are.
  std::vector<std::uint64_t> list_;
  std::vector<int> first_chunk_;                        ///< (experts): -1: all rows stay
  std::vector<DispatchPart> chunks_;                    ///< of the other experts, one after the other, by `from`
  std::vector<int> by_node_;                            ///< all ranks, those of a node in turn
  std::vector<Share> shares_;                           ///< of the expert in hand
  std::vector<int> share_of_rank_;                      ///< (ranks): -1: none
  std::vector<std::int64_t> first_row_, leave_, come_;  ///< (nodes + 1), (nodes), (nodes): of the expert in hand
  std::vector<int> from_place_;                         ///< (nodes): before it all is dealt
  std::vector<int> near_;                               ///< (nodes): the share that gets rows of its node
  std::vector<DispatchPart> parts_;                     ///< of the expert in hand
  std::vector<std::int64_t> times_;                     ///< (ranks)
  std::vector<int> arrivals_;                           ///< (ranks)
  int most_arrivals_ = 0;
};

}  // namespace coterie
