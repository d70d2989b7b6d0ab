// The policy least-loaded: overloaded ranks give rows, and where needed weights, to others until the slowest rank is as
// fast as it can be.
#pragma once

#include "placement/dispatch/dispatch_copies.hpp"
#include "placement/dispatch/dispatch_loads.hpp"
#include "placement/dispatch/llep.hpp"

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace coterie {

/// Rows of an item that another rank computes.
struct DispatchChunk {
  int item = 0;
  int rank = 0;
  std::int64_t own = 0;  ///< rows that lie on the rank already
  int first_draw = 0;    ///< the others, in draws()
  int draws = 0;
  int weights_from = -1;  ///< the rank that sends the weights, -1 where none are needed
};

/// Rows of an item that come from a node without those of the item's rank.
struct DispatchDraw {
  static constexpr int kOwner = -1;   ///< or from the item's rank
  static constexpr int kInTurn = -2;  ///< or from all nodes but its own, those of node 0 first
  int node = 0;
  std::int64_t rows = 0;
};

/// Copies that pay for themselves are made first (all of them, or the best so many). From there a search for the time
/// of the slowest rank: for a target each rank above it gives rows of its experts, the hottest first, to the rank where
/// the least is done for what is saved; the rows that lie there come first, then those of its node. A helper passes
/// nothing on. Among few ranks the search is repeated with other orders of what is given.
class LeastLoaded {
 public:
  /// Whether something is spilled, and if not, why not; `loads` are left with the copies of the solution. Nothing is
  /// looked for where `rival`, if any, has a plan with which the search would end.
  [[nodiscard]] DispatchPlan::Stayed solve(DispatchLoads& loads, const DispatchOptions& options, Llep* rival);
  void clear();

  /// Of the slowest rank, at most `loads`' own.
  [[nodiscard]] std::int64_t time() const noexcept { return best_; }
  /// Of weights.
  [[nodiscard]] std::size_t transfers() const;

  /// Empty where nothing is spilled, but for loads.copies().
  [[nodiscard]] const std::vector<DispatchChunk>& chunks() const noexcept { return best_chunks_; }
  /// Of loads.copies() those that weights travel for.
  [[nodiscard]] const std::vector<DispatchCopy>& copies() const noexcept { return sent_copies_; }
  [[nodiscard]] std::span<const DispatchDraw> draws() const noexcept { return best_draws_; }

 private:
  static constexpr std::int64_t kUnit = 1024;  ///< of prices
  static constexpr int kBlock = 8;             ///< nodes
  static constexpr int kFew = DispatchLoads::kFewRanks;
  /// What a helper can take of an item, by where the rows come from.
  struct Offer {
    enum Source { own, node, other_nodes, owners_node, owner, sources };
    std::array<std::int64_t, sources> rows{};
    int weights_from = -1;    ///< place
    std::int64_t cost = 0;    ///< to the helper
    std::int64_t saving = 0;  ///< to the item's rank
    std::int64_t total = 0;   ///< rows
    bool done = false;        ///< nothing more needs to be given, or nothing is left
    /// What is done for what is saved.
    std::int64_t price = std::numeric_limits<std::int64_t>::max();

    void add(std::size_t source, std::int64_t count, std::int64_t costs, std::int64_t saves) {
      rows[source] = count;
      total += count;
      cost += count * costs;
      saving += count * saves;
    }
    [[nodiscard]] bool better_than(const Offer& other) const {
      if (done != other.done) return done;
      if (price != other.price) return price < other.price;
      return saving > other.saving;
    }
  };
  /// How ranks give.
  struct Style {
    enum class First { hottest, tightest, cheapest };
    First first = First::hottest;
    bool own_first = false;  ///< of all items the rows that lie at the helper, then the others
  };
  struct Taken {
    std::uint32_t pass = 0;
    std::int32_t rows = 0;
  };

  /// Of an expert at a rank: the pass in which weights came, in which rows are there, in which it took some of others.
  struct Here {
    std::uint32_t weights = 0, rows = 0, took = 0;
  };

  void search_all(bool copies);
  void send_copies();
  void drop(const DispatchCopy& copy);
  void prepare();
  void list_items();
  void sort_by_time(std::int64_t least);
  /// Improves on best_ if it can; whether it did.
  [[nodiscard]] bool search(std::int64_t mean);
  [[nodiscard]] bool near_floor(std::int64_t time) const;
  [[nodiscard]] bool tired() const;
  [[nodiscard]] bool good() const;  ///< enough not to look much longer
  [[nodiscard]] bool attempt(std::int64_t target);
  /// Whether all ranks come down to `target`. If not, what was given stays given, unless it is in vain.
  [[nodiscard]] bool reach(std::int64_t target);
  void begin_pass(std::int64_t target);
  void keep_if_best();
  [[nodiscard]] bool mostly_work() const;  ///< rows' and weights' ways are little beside the products
  void give(int place);
  void sort_by_rows(std::span<int> items);
  void give_cheapest(std::span<const int> items, int place, bool own_only);
  /// Of items, the hottest first: the last that would bring their rank down by `excess` alone, else the first.
  [[nodiscard]] std::size_t tightest(std::span<const int> items, std::int64_t excess) const;
  void touch(int item);
  void know(int item);
  void know_expert(int expert);
  [[nodiscard]] bool own_may_pay(int expert) const;
  void shed(int item, bool own_only);
  [[nodiscard]] int best_helper(int item, bool own_only, Offer& best);
  [[nodiscard]] int with_most_rows(int item, int begin, int end, std::int64_t room, int best) const;
  [[nodiscard]] int least_loaded_ready(int expert, int but);
  [[nodiscard]] int roomiest_but(int node) const;
  [[nodiscard]] std::int32_t taken(int place, int item) const;
  void set_room(int place);
  void find_roomiest(int node);
  [[nodiscard]] Offer offer(int item, int helper, bool own_only);
  /// Rows that may be offered, by source, and what each of a source takes of the helper's time and of the owner's.
  struct Sources {
    std::array<std::int64_t, Offer::sources> there, costs, savings;
  };
  [[nodiscard]] Sources sources(int item, int helper);
  /// The weights' way and the expert's own costs; false where nobody can send the weights.
  [[nodiscard]] bool begin_offer(int item, int helper, Offer& offer);
  void take(int item, int helper, const Offer& offer);
  void draw(int item, int node, std::int64_t rows);
  void draw_in_turn(int item, int but, std::int64_t rows);
  [[nodiscard]] int sender(const DispatchItem& item, int helper) const;
  [[nodiscard]] bool has(int place, int expert) const {
    return here_[cell(place, expert)].weights == pass_ || ready_at_[cell(place, expert)] != 0;
  }
  [[nodiscard]] std::int64_t weights_way(int a, int b) const {
    return node_[a] == node_[b] ? loads_->costs().weights_inside : loads_->costs().weights_between;
  }
  [[nodiscard]] std::size_t cell(int place, int index) const {
    return static_cast<std::size_t>(index) * ranks_ + place;
  }
  [[nodiscard]] std::int64_t* pool(int item) { return pool_.data() + static_cast<std::size_t>(item) * nodes_; }

  DispatchLoads* loads_ = nullptr;
  DispatchCopies copies_;
  int most_arrivals_ = 0, ranks_ = 0, nodes_ = 0;
  Style style_;
  std::int64_t target_ = 0;
  std::int64_t least_ = 0;                      ///< no plan takes less
  int offers_ = 0;                              ///< looked at in this solution
  int most_offers_ = 0, most_good_offers_ = 0;  ///< until nothing more is tried; where the plan is good()
  // A place is a rank's index in the order; all below is by places.
  const DispatchOrder* order_ = nullptr;
  std::vector<int> node_;
  std::vector<std::int64_t> base_, times_, room_;  ///< picoseconds: at first, now, up to the target
  std::vector<int> base_arrivals_, arrivals_;
  std::vector<int> roomiest_;                         ///< (nodes): place
  std::vector<int> roomiest_of_;                      ///< of each kBlock nodes the same
  std::vector<int> by_time_;                          ///< places above the least time, the slowest first
  std::int64_t sorted_above_ = 0;                     ///< this time; the others are in any order
  std::vector<std::uint8_t> sorted_;                  ///< (places): whether its items are
  std::vector<int> item_begin_, items_;               ///< (places + 1), (items): the items of each, the hottest first
  std::vector<std::pair<std::int64_t, int>> keys_;    ///< (items of a place)
  std::vector<std::uint64_t> sorting_;                ///< (items of a place)
  std::vector<int> shared_;                           ///< items of shared experts
  std::vector<std::uint8_t> known_;                   ///< (items): whether own_ is
  std::vector<std::uint8_t> known_experts_;           ///< (experts): whether the next are
  std::vector<int> ready_, ready_begin_, ready_end_;  ///< places that have the weights at first; (experts): where
  std::vector<std::uint8_t> ready_at_;                ///< (experts, places): the same
  std::vector<const std::int32_t*> own_;              ///< (items): (places), rows that come from there
  std::vector<std::int32_t> own_memory_;              ///< (items, places): of those that others share
  std::vector<Taken> taken_;                          ///< (items, places): of those
  std::vector<std::uint32_t> gave_;                   ///< (places): pass_ where it gave what it can
  std::vector<std::uint32_t> touched_;                ///< (items): pass_ where the next four are of it
  std::vector<std::int64_t> left_, owners_own_;       ///< (items): rows that stay, of them those of its rank
  std::vector<int> drawn_;                            ///< (items): all rows of the nodes before it, but the owner's
  std::vector<std::int64_t> base_pool_, pool_;        ///< (items, nodes): of them those of others
  std::vector<Here> here_;                            ///< (experts, places)
  std::uint32_t pass_ = 0;
  bool found_ = false;
  std::int64_t floor_ = 0;
  std::int64_t slowest_ = 0;  ///< rank's time in the last pass
  std::int64_t best_ = 0;
  std::vector<std::int64_t> best_times_;
  std::vector<DispatchCopy> sent_copies_;
  std::vector<DispatchChunk> chunks_, best_chunks_;  ///< of the pass, of the best one
  std::vector<DispatchDraw> draws_, best_draws_;
};

}  // namespace coterie
