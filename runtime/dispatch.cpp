#include "runtime/dispatch.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace coterie {

std::vector<RowsFor> rows_by_rank(const Routing& routing, std::span<const int> destinations, int ranks) {
  std::vector<RowsFor> out(ranks);
  const auto k = static_cast<std::size_t>(routing.top_k);
  const std::size_t tokens = routing.experts.size() / k;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t j = 0; j < k; ++j) {
      const Route route{routing.experts[t * k + j], routing.weights[t * k + j]};
      RowsFor& to = out[destinations[route.expert]];
      if (to.rows.empty() || to.rows.back() != static_cast<std::int32_t>(t)) {
        to.rows.push_back(static_cast<std::int32_t>(t));
        to.routes.resize(to.rows.size() * k);
      }
      const auto row = to.routes.end() - routing.top_k;
      *std::find_if(row, to.routes.end(), [](const Route& r) { return r.expert == Route::kNone; }) = route;
    }
  }
  return out;
}

GroupedRows group_by_expert(std::span<const Route> routes, int top_k, int experts) {
  std::vector<std::int64_t> begin(experts + 1, 0);  // counting sort by expert
  for (const Route& route : routes) {
    if (route.expert == Route::kNone) continue;
    if (route.expert < 0 || route.expert >= experts) {
      throw std::invalid_argument("a row arrived for expert " + std::to_string(route.expert) + " of " +
                                  std::to_string(experts));
    }
    ++begin[route.expert + 1];
  }
  GroupedRows out;
  for (int e = 0; e < experts; ++e) {
    if (begin[e + 1] > 0) {
      out.experts.push_back(e);
      out.first.push_back(begin[e]);
    }
    begin[e + 1] += begin[e];
  }
  const std::int64_t pairs = begin[experts];
  out.first.push_back(pairs);
  out.arrived.resize(pairs);
  out.contributions.reserve(pairs);
  out.offsets.push_back(0);
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (routes[i].expert != Route::kNone) {
      const auto at = static_cast<std::int32_t>(begin[routes[i].expert]++);
      out.arrived[at] = static_cast<std::int32_t>(i / top_k);
      out.contributions.push_back({at, routes[i].weight});
    }
    if ((i + 1) % top_k == 0) out.offsets.push_back(static_cast<std::int64_t>(out.contributions.size()));
  }
  return out;
}

}  // namespace coterie
