// A complete assignment under search: what it costs, and what an exchange of experts would change.
#pragma once

#include "placement/problem.hpp"

namespace coterie {

/// A change of one layer: `expert` goes to rank `to`, and `other`, which is there (or -1: nobody), to where `expert`
/// was.
struct Exchange {
  int layer;
  int expert;
  int to;
  int other;
};

class SearchModel {
 public:
  SearchModel() = default;
  SearchModel(const SearchModel&) = delete;
  SearchModel& operator=(const SearchModel&) = delete;
  virtual ~SearchModel() = default;

  /// Starts anew from an assignment.
  virtual void restart(const Assignment& assignment) = 0;
  /// Cost of the assignment, in the model's own unit; smaller is better. Counted from scratch.
  [[nodiscard]] virtual double cost() const = 0;
  /// Cost after the exchange less cost before.
  [[nodiscard]] virtual double change(const Exchange& exchange) const = 0;
  virtual void apply(const Exchange& exchange) = 0;

  [[nodiscard]] const Assignment& assignment() const noexcept { return assignment_; }

 protected:
  Assignment assignment_;
};

}  // namespace coterie
