#include "runtime/experts/partial_sums.hpp"

#include "comm/communicator.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>

namespace coterie {
namespace {

/// Where a row is among the rank's rows.
std::size_t place_of(std::int32_t row, const Resident& at, int layer) {
  const auto found = std::lower_bound(at.rows.begin(), at.rows.end(), row);
  if (found == at.rows.end() || *found != row) {
    throw CommError("layer " + std::to_string(layer) + ": a partial sum arrived for row " + std::to_string(row) +
                    ", which is not on this rank");
  }
  return static_cast<std::size_t>(found - at.rows.begin());
}

/// Whether each partial's sums but the shared expert's are whole and of one owner, and these ascend: nothing was
/// spilled.
bool are_by_owner(std::span<const PartialSums> sums) {
  int last = -1;
  for (const PartialSums& partial : sums) {
    int owner = -1;
    for (const SumLabel& label : partial.labels) {
      if (label.owner == SumLabel::kShared) continue;
      if (label.place != Route::kWhole || (owner >= 0 && label.owner != owner) || label.owner <= last) return false;
      owner = label.owner;
    }
    last = std::max(last, owner);
  }
  return true;
}

/// add_sums where they are by owner, without a copy.
void add_by_owner(std::span<const PartialSums> sums, const Resident& to, int layer, Device& device) {
  std::vector<std::vector<const std::byte*>> of_row(to.rows.size());
  for (const bool shared : {false, true}) {
    for (const PartialSums& partial : sums) {
      for (std::size_t i = 0; i < partial.labels.size(); ++i) {
        const SumLabel& label = partial.labels[i];
        if ((label.owner == SumLabel::kShared) != shared) continue;
        of_row[place_of(label.row, to, layer)].push_back(partial.sums.row(static_cast<std::int64_t>(i)));
      }
    }
  }
  RowSums added;
  for (std::size_t i = 0; i < of_row.size(); ++i) {
    added.open(to.x.row(static_cast<std::int64_t>(i)));
    for (const std::byte* sum : of_row[i]) added.add(sum);
  }
  device.sum_rows(added, to.x.cols, true);
}

}  // namespace

void WantedSums::add(std::int32_t row, std::span<const Route> routes, std::span<const Contribution> of_routes) {
  const std::size_t count = of_routes.size();
  const auto open = [&](const SumLabel& label) {
    labels.push_back(label);
    offsets.push_back(offsets.back());
  };
  const auto sum = [&](const Contribution& contribution) {
    contributions.push_back(contribution);
    ++offsets.back();
  };
  const auto together = [&](std::size_t i, std::size_t j) {
    return routes[i].place == Route::kWhole && routes[i].owner == routes[j].owner;
  };
  for (std::size_t j = 0; j < count; ++j) {
    if (routes[j].place != Route::kWhole) {
      open({row, routes[j].owner, routes[j].place, routes[j].weight});
      sum({of_routes[j].row, 1.0F});
      continue;
    }
    std::size_t first = 0;
    while (!together(first, j)) ++first;
    if (first < j) continue;
    open({row, routes[j].owner});
    for (std::size_t i = j; i < count; ++i) {
      if (together(i, j)) sum(of_routes[i]);
    }
  }
}

void add_sums(std::span<const PartialSums> sums, const Resident& to, int layer, Device& device, Scratch& scratch) {
  if (are_by_owner(sums)) return add_by_owner(sums, to, layer, device);
  struct Term {
    std::size_t at = 0;  ///< the row's place on this rank
    SumLabel label;
    std::int32_t index = 0;  ///< among all sums
  };
  std::vector<Term> terms;
  for (const PartialSums& partial : sums) {
    for (const SumLabel& label : partial.labels) {
      terms.push_back({place_of(label.row, to, layer), label, static_cast<std::int32_t>(terms.size())});
    }
  }
  if (terms.empty()) return;
  const Tensor all = scratch.take(static_cast<std::int64_t>(terms.size()), to.x.cols);
  std::vector<std::int32_t> indices;
  std::int64_t first = 0;
  for (const PartialSums& partial : sums) {
    const auto n = static_cast<std::int64_t>(partial.labels.size());
    indices.resize(partial.labels.size());
    std::iota(indices.begin(), indices.end(), 0);
    if (n > 0) device.gather(partial.sums, indices, all.row_range(first, n));
    first += n;
  }

  std::sort(terms.begin(), terms.end(), [](const Term& a, const Term& b) {
    return std::tie(a.at, a.label.owner, a.label.place) < std::tie(b.at, b.label.owner, b.label.place);
  });
  std::vector<std::int64_t> of_owner{0};                    // each owner's terms of each row
  std::vector<std::int64_t> of_row(to.rows.size() + 1, 0);  // each row's owners
  std::vector<Contribution> weighed, owners;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const Term& term = terms[i];
    weighed.push_back({term.index, term.label.weight});
    const bool goes_on =
        i + 1 < terms.size() && terms[i + 1].at == term.at && terms[i + 1].label.owner == term.label.owner;
    if (goes_on) continue;
    owners.push_back({static_cast<std::int32_t>(owners.size()), 1.0F});
    of_owner.push_back(static_cast<std::int64_t>(i + 1));
    ++of_row[term.at + 1];
  }
  std::partial_sum(of_row.begin(), of_row.end(), of_row.begin());
  const Tensor by_owner = scratch.take(static_cast<std::int64_t>(owners.size()), to.x.cols);
  device.combine(all, of_owner, weighed, by_owner);
  device.combine(by_owner, of_row, owners, to.x, true);
}

}  // namespace coterie
