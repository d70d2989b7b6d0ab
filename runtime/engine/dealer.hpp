// Deals requests to the coherence domains by expected work. Used on rank 0; pure.
#pragma once

#include "runtime/layers/domains.hpp"
#include "runtime/requests/request.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace coterie {

/// Tokens that a request will put through the model if nothing ends it early.
[[nodiscard]] std::int64_t expected_work(const Request& request);

/// A domain gets the next request when it has the least work before it, for its number of ranks, of all domains that
/// have room; there is room for twice the sequences that can run, so that a finished one is replaced at once.
class Dealer {
 public:
  /// `next` gives the requests in their order, and nothing at the end.
  Dealer(const Domains& domains, int max_batch_size, std::function<std::optional<Request>()> next);

  struct Dealt {
    int domain = 0;
    Request request;
  };
  /// Whatever there is room for now.
  [[nodiscard]] std::vector<Dealt> deal();
  /// A domain has answered requests that took this much expected work together.
  void finished(int domain, std::int64_t requests, std::int64_t work);
  /// There are no more requests to deal.
  [[nodiscard]] bool exhausted() const noexcept { return exhausted_; }

 private:
  struct Load {
    std::int64_t ranks = 1;
    std::int64_t room = 0;  ///< requests
    std::int64_t requests = 0;
    std::int64_t work = 0;
  };
  std::function<std::optional<Request>()> next_;
  std::vector<Load> loads_;
  bool exhausted_ = false;
};

}  // namespace coterie
