// What a GPU repeats as graphs, beside the same calls one by one.
#include "kernels/cuda_devices.hpp"
#include "tests/kernels/device_suite.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>

namespace coterie {
namespace {

constexpr std::int64_t kHidden = 32, kWidth = 16, kRows = 40;
constexpr int kExperts = 4;

/// A device with what a body needs; all of them get the same numbers.
class Repeater {
 public:
  explicit Repeater(bool graphs) : device_(make_cuda_device({DType::bf16, 1, DType::bf16, graphs}, 0)) {
    table_ = array(kRows);
    device_->upload(numbers(kRows * kHidden), table_.tensor);
    x_ = array(kRows);
    y_ = array(kRows);
    weight_ = packed(kHidden, kHidden, WeightUse::linear);
    router_ = packed(kExperts, kHidden, WeightUse::linear);
    std::vector<const ExpertWeights*> pointers;
    for (ExpertWeights& expert : experts_) {
      expert.gate_up = packed(2 * kWidth, kHidden, WeightUse::expert_gate_up);
      expert.down = packed(kHidden, kWidth, WeightUse::expert_down);
      pointers.push_back(&expert);
    }
    set_ = device_->expert_set(pointers);
  }

  /// What becomes of these rows of the table; `more` is the body's end.
  Numbers run(std::uint64_t key, const std::vector<std::int32_t>& rows, const std::function<void()>& more = {}) {
    const auto count = static_cast<std::int64_t>(rows.size());
    const Tensor x = x_.tensor.row_range(0, count), y = y_.tensor.row_range(0, count);
    device_->repeat(key, [&] {
      device_->gather(table_.tensor, rows, x);
      device_->linear(x, *weight_, y);
      device_->rotary(y, 8, {{1, 0.5F}}, std::vector<std::int64_t>(rows.begin(), rows.end()));
      const RowGroups groups = device_->group(x, *router_, {.top_k = 2}, {});
      device_->add_experts(x, groups, *set_, 1, y);
      if (more) more();
    });
    Numbers out(static_cast<std::size_t>(count * kHidden));
    device_->download(y, out);
    return out;
  }
  void wait() { device_->wait(); }

 private:
  Numbers numbers(std::int64_t count) {
    std::uniform_real_distribution<float> number(-1, 1);
    Numbers out(static_cast<std::size_t>(count));
    for (float& x : out) x = number(random_);
    return out;
  }
  Array array(std::int64_t rows) {
    Array out;
    out.tensor = device_->allocate(rows, kHidden, out.memory);
    return out;
  }
  std::unique_ptr<PackedMatrix> packed(std::int64_t rows, std::int64_t cols, WeightUse use) {
    const Numbers weight = numbers(rows * cols);
    WeightSource source{rows, cols, [&](std::int64_t first, std::int64_t count, float* out) {
                          std::copy_n(weight.begin() + first * cols, count * cols, out);
                        }};
    source.use = use;
    return device_->pack(source);
  }

  std::mt19937 random_{7};
  std::unique_ptr<Device> device_;
  Array table_, x_, y_;
  std::unique_ptr<PackedMatrix> weight_, router_;
  std::array<ExpertWeights, kExperts> experts_;
  std::unique_ptr<ExpertSet> set_;
};

class CudaRepeat : public testing::Test {
 protected:
  std::vector<std::int32_t> some_rows(int count) {
    std::vector<std::int32_t> rows(kRows);
    std::iota(rows.begin(), rows.end(), 0);
    std::ranges::shuffle(rows, random_);
    rows.resize(static_cast<std::size_t>(count));
    return rows;
  }
  void expect_same_rows(std::uint64_t key, int count) {
    const auto rows = some_rows(count);
    expect_same(graphs_.run(key, rows), one_by_one_.run(key, rows),
                std::to_string(count) + " rows of key " + std::to_string(key));
  }

  std::mt19937 random_{11};
  Repeater graphs_{true}, one_by_one_{false};
};

TEST_F(CudaRepeat, OtherRowsGoThroughTheSameGraph) {
  for (int i = 0; i < 6; ++i) expect_same_rows(1, 5);
}

TEST_F(CudaRepeat, BodiesThatChangeAreNoticed) {
  for (const int count : {5, 5, 5, 6, 6, 6, 5, 40, 40, 40, 5, 5, 5}) expect_same_rows(1, count);
  for (int round = 0; round < 2; ++round) {  // more keys than are kept
    for (int key = 0; key < 40; ++key) expect_same_rows(static_cast<std::uint64_t>(key), 1 + key % 3);
  }
}

TEST_F(CudaRepeat, BodiesMayWaitDifferAtTheirEndAndFail) {
  for (int i = 0; i < 7; ++i) {
    const auto rows = some_rows(4);
    const auto expected = one_by_one_.run(1, rows);
    expect_same(graphs_.run(1, rows, i % 3 == 1 ? [&] { graphs_.wait(); } : std::function<void()>()), expected, "rows");
    if (i % 3 != 2) continue;
    EXPECT_THROW((void)graphs_.run(1, rows, [] { throw std::runtime_error("the body's own"); }), std::runtime_error);
  }
}

}  // namespace
}  // namespace coterie
