#include "runtime/engine/dealer.hpp"

#include <algorithm>
#include <iterator>

namespace coterie {

std::int64_t expected_work(const Request& request) {
  return static_cast<std::int64_t>(request.prompt.size()) + request.max_tokens;
}

Dealer::Dealer(const Domains& domains, int max_batch_size, std::function<std::optional<Request>()> next)
    : next_(std::move(next)) {
  for (int d = 0; d < domains.count(); ++d) {
    const auto ranks = static_cast<std::int64_t>(domains.ranks(d).size());
    loads_.push_back({.ranks = ranks, .room = 2 * ranks * max_batch_size});
  }
}

std::vector<Dealer::Dealt> Dealer::deal() {
  const auto comes_first = [](const Load& a, const Load& b) {
    const bool room_a = a.requests < a.room;
    const bool room_b = b.requests < b.room;
    return room_a != room_b ? room_a : a.work * b.ranks < b.work * a.ranks;
  };
  std::vector<Dealt> out;
  while (!exhausted_) {
    const auto least = std::min_element(loads_.begin(), loads_.end(), comes_first);
    if (least->requests >= least->room) break;
    auto request = next_();
    if (!request) {
      exhausted_ = true;
      break;
    }
    ++least->requests;
    least->work += expected_work(*request);
    out.push_back({static_cast<int>(std::distance(loads_.begin(), least)), std::move(*request)});
  }
  return out;
}

void Dealer::finished(int domain, std::int64_t requests, std::int64_t work) {
  loads_[domain].requests -= requests;
  loads_[domain].work -= work;
}

}  // namespace coterie
