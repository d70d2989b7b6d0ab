#include "runtime/dealer.hpp"

#include <algorithm>
#include <iterator>

namespace coterie {

std::int64_t expected_work(const Request& request) {
  return static_cast<std::int64_t>(request.prompt.size()) + request.max_tokens;
}

Dealer::Dealer(int ranks, int max_batch_size, std::function<std::optional<Request>()> next)
    : next_(std::move(next)), room_(2 * std::int64_t{max_batch_size}), loads_(ranks) {}

std::vector<Dealer::Dealt> Dealer::deal() {
  std::vector<Dealt> out;
  while (!exhausted_) {
    const auto order = [&](const Load& a, const Load& b) {
      const bool room_a = a.requests < room_;
      const bool room_b = b.requests < room_;
      return room_a != room_b ? room_a : a.work < b.work;
    };
    const auto least = std::min_element(loads_.begin(), loads_.end(), order);
    if (least->requests >= room_) break;
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

void Dealer::finished(int rank, std::int64_t requests, std::int64_t work) {
  loads_[rank].requests -= requests;
  loads_[rank].work -= work;
}

}  // namespace coterie
