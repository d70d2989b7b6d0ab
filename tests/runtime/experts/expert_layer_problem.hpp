// Problems for one MoE layer's experts: rows, choices and weights that all ranks know, ways to dispatch them, and what
// comes of them, gradients too, on all ranks together or on a single one.
#pragma once

#include "runtime/experts/expert_layer.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace coterie {

using Numbers = std::vector<float>;

/// A layer, its input and a loss, sum(y * dy), over all ranks together; the same on all of them.
struct LayerProblem {
  ExpertLayerShape shape;
  int experts = 0;
  std::vector<std::int32_t> chosen;    ///< (rows, top_k)
  Numbers gates;                       ///< (rows, top_k)
  Numbers x, dy;                       ///< (rows, hidden)
  std::vector<Numbers> gate_up, down;  ///< (experts)

  [[nodiscard]] std::int64_t rows() const { return static_cast<std::int64_t>(x.size()) / shape.hidden; }
};

/// Rows whose choices `choose` makes, for row and place; all else is drawn.
[[nodiscard]] LayerProblem random_problem(
    const ExpertLayerShape& shape, int experts, std::int64_t rows, unsigned seed,
    const std::function<std::int32_t(std::int64_t row, int place, std::mt19937& random)>& choose);
/// 12 experts. Nine of ten choices fall on the first quarter of them, a few on none.
[[nodiscard]] LayerProblem skewed_problem(int top_k, std::int64_t rows, unsigned seed);

/// What comes of it, and gradients.
struct LayerOutcome {
  Numbers y, x, gates;
  std::vector<Numbers> gate_up, down;  ///< (experts)
};

struct DispatchWay {
  std::string name;
  DispatchOptions options;
  DispatchCosts costs = {.row = 1000, .expert = 0, .row_inside = 1, .row_between = 2};  ///< weights travel for nothing
  bool replicas = false;
  std::int64_t cache_bytes = 0;
};

/// Thresholds are so low that nearly everything spills.
[[nodiscard]] DispatchWay way(const std::string& name, DispatchPolicy policy, bool replicas = false);
/// Each policy, without replicas and with them.
extern const std::vector<DispatchWay> ways;

/// Where each rank's rows begin: (ranks + 1).
using Shares = std::vector<std::int64_t>;
[[nodiscard]] Shares even_shares(std::int64_t rows, int ranks);

/// A single rank's.
class NoOthers final : public Communicator {
 public:
  [[nodiscard]] int rank() const noexcept override { return 0; }
  [[nodiscard]] int ranks() const noexcept override { return 1; }
  [[nodiscard]] std::span<const int> node_of_rank() const noexcept override { return node_; }
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine, const Place&) override {
    return {{mine.begin(), mine.end()}};
  }
  void begin(Outbox outbox, const Place&) override { messages_ = std::move(outbox); }
  [[nodiscard]] bool progress() override { return true; }
  [[nodiscard]] Inbox& wait_for_rows() override { return messages_; }
  [[nodiscard]] Inbox finish() override { return std::move(messages_); }

 private:
  Inbox messages_;
  std::vector<int> node_{0};
};

/// Experts in consecutive blocks on ranks, two of which share a node; with replicas every other one also on the rank
/// behind its own.
[[nodiscard]] DispatchLayer block_placement(int experts, int ranks, bool replicas);

/// (rows, cols) over all of `numbers`, which outlive it.
[[nodiscard]] Tensor tensor(Numbers& numbers, std::int64_t cols);
[[nodiscard]] Numbers part(const Numbers& of, std::int64_t first, std::int64_t last);

/// This rank's layer of a problem, its weights set.
struct ReadyLayer {
  std::unique_ptr<Device> device = make_cpu_device({DType::f32, 1});
  ExpertLayer layer;

  ReadyLayer(const LayerProblem& problem, const DispatchWay& way, Communicator& comm);
};

struct LayerRun {
  LayerOutcome mine;          ///< of this rank's rows; gradients of weights where it owns them, else none
  std::int64_t computed = 0;  ///< pairs
  std::size_t guests = 0;
  ExpertPass pass;  ///< until it went back
};

/// This rank's part. `backward` adds to the gradients of weights that `run` has.
[[nodiscard]] LayerRun forward(const LayerProblem& problem, ReadyLayer& ready, const Shares& shares, Communicator& comm,
                               std::optional<std::int64_t> rows_of_all = {});
void backward(const LayerProblem& problem, ReadyLayer& ready, const Shares& shares, Communicator& comm, LayerRun& run);
/// Both, through a layer made for it.
[[nodiscard]] LayerRun run(const LayerProblem& problem, const DispatchWay& way, const Shares& shares,
                           Communicator& comm);
/// What a single rank has of it.
[[nodiscard]] LayerOutcome alone(const LayerProblem& problem);

/// Every rank's numbers, one after the other. Collective.
[[nodiscard]] Numbers gather(Communicator& comm, const Numbers& mine);
[[nodiscard]] LayerOutcome gather(Communicator& comm, const LayerOutcome& mine);

/// To the last bit.
void expect_same_bits(const Numbers& actual, const Numbers& expected, const std::string& what);
/// Within some units in the last place of the largest number.
void expect_close(const Numbers& actual, const Numbers& expected, const std::string& what);
void expect_close(const LayerOutcome& actual, const LayerOutcome& expected);

}  // namespace coterie
