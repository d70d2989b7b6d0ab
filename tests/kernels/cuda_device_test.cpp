// The CUDA device: the suite with each type of weights, and activations in bf16 against those in f32. Without a GPU it
// says so and ends with code 77; tests/hostcuda runs it on the host.
#include "kernels/cuda_devices.hpp"
#include "tests/kernels/device_suite.hpp"

#include <cmath>
#include <cstdio>
#include <numeric>

namespace coterie {
namespace {

std::unique_ptr<Device> make(const DeviceOptions& options) {
  return make_cuda_device(options, 0);
}

const DeviceCase cases[] = {{"f32", {DType::f32, 1}, make}, {"bf16", {DType::bf16, 1}, make}};

INSTANTIATE_TEST_SUITE_P(Cuda, DeviceTest, testing::ValuesIn(cases),
                         [](const auto& instance) { return instance.param.name; });

INSTANTIATE_TEST_SUITE_P(Cuda, GradientDeviceTest, testing::ValuesIn(std::span(cases).first(1)),
                         [](const auto& instance) { return instance.param.name; });

/// The same operation on two devices with weights in bf16: one with activations in f32, which the suite has judged, one
/// with activations in bf16. Inputs are bf16's numbers.
class Bf16Activations : public testing::Test {
 protected:
  struct Rows {
    Array f32, bf16;
  };

  Numbers numbers(std::int64_t count) {
    std::normal_distribution<float> normal;
    Numbers out(static_cast<std::size_t>(count));
    for (float& x : out) x = rounded_to_bf16(normal(random_));
    return out;
  }
  Rows rows(const Numbers& numbers, std::int64_t rows, std::int64_t cols) {
    Rows out;
    out.f32.tensor = f32_->allocate(rows, cols, out.f32.memory);
    out.bf16.tensor = bf16_->allocate(rows, cols, out.bf16.memory);
    f32_->upload(numbers, out.f32.tensor);
    bf16_->upload(numbers, out.bf16.tensor);
    return out;
  }
  Rows rows(std::int64_t count, std::int64_t cols) { return rows(numbers(count * cols), count, cols); }

  struct Matrices {
    std::unique_ptr<PackedMatrix> f32, bf16;
  };
  Matrices matrix(std::int64_t outputs, std::int64_t inputs) {
    const Numbers weight = numbers(outputs * inputs);
    const WeightSource source{outputs, inputs, [&](std::int64_t first, std::int64_t count, float* out) {
                                std::copy_n(weight.begin() + first * inputs, count * inputs, out);
                              }};
    return {f32_->pack(source), bf16_->pack(source)};
  }

  /// Within `roundings` of bf16 of the largest number of the row.
  void expect_close(const Rows& out, double roundings, const char* what) {
    const Tensor& tensor = out.f32.tensor;
    Numbers expected(static_cast<std::size_t>(tensor.rows * tensor.cols));
    Numbers actual(expected.size());
    f32_->download(tensor, expected);
    bf16_->download(out.bf16.tensor, actual);
    for (std::int64_t r = 0; r < tensor.rows; ++r) {
      const auto first = static_cast<std::size_t>(r * tensor.cols);
      const auto count = static_cast<std::size_t>(tensor.cols);
      double largest = 0;
      for (std::size_t c = 0; c < count; ++c) largest = std::max(largest, std::abs(double{expected[first + c]}));
      for (std::size_t c = 0; c < count; ++c) {
        ASSERT_NEAR(actual[first + c], expected[first + c], roundings * largest / 256)
            << what << ", row " << r << ", column " << c;
      }
    }
  }
  /// op(device, with) on either device; `with` picks an array's or a matrix' half of that device.
  template <class Op>
  void on_both(const Op& op) {
    op(
        *f32_, [](const Rows& r) { return r.f32.tensor; }, [](const Matrices& m) { return m.f32.get(); });
    op(
        *bf16_, [](const Rows& r) { return r.bf16.tensor; }, [](const Matrices& m) { return m.bf16.get(); });
  }

  const unsigned seed_ = std::random_device{}();
  std::mt19937 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, "seed " + std::to_string(seed_)};
  std::unique_ptr<Device> f32_ = make({DType::bf16, 1});
  std::unique_ptr<Device> bf16_ = make({DType::bf16, 1, DType::bf16});
};

TEST_F(Bf16Activations, OfWhatIsDoneRowByRow) {
  const Rows x = rows(9, 96);
  const Rows weight = rows(1, 96);
  const Rows head_weight = rows(1, 24);
  const Rows out = rows(9, 96);
  on_both([&](Device& device, auto of, auto) { device.rms_norm(of(x), of(head_weight), 1e-6F, of(out)); });
  expect_close(out, 1, "rms_norm");
  on_both([&](Device& device, auto of, auto) { device.layer_norm(of(x), of(weight), of(weight), 1e-6F, of(out)); });
  expect_close(out, 1, "layer_norm");
  const std::vector<std::int64_t> offsets{0, 2, 2, 5, 6, 7, 8, 9, 9, 9};
  const std::vector<Contribution> parts{{0, 0.5F}, {8, 1}, {3, 2}, {1, 1}, {7, 0.25F}, {2, 1}, {2, -1}, {4, 1}, {5, 3}};
  on_both([&](Device& device, auto of, auto) { device.combine(of(x), offsets, parts, of(out), false); });
  expect_close(out, 1, "combine");
  on_both([&](Device& device, auto of, auto) {
    device.add(of(x), 0.5F, of(out));
    device.add_bias(of(out), of(weight));
    device.scale(of(out), 1.5F);
    device.clamp(of(out), 2);
  });
  expect_close(out, 4, "add, add_bias, scale, clamp");
  const std::vector<std::int64_t> positions{0, 1, 2, 3, 70, 500, 6, 7, 8};
  on_both([&](Device& device, auto of, auto) { device.rotary(of(x), 24, {{1, 0.1F, 0.01F}, 1, false}, positions); });
  expect_close(x, 1, "rotary");
}

TEST_F(Bf16Activations, OfProducts) {
  // Of inputs that come in copies of 16 bytes and of others, of more stages than a ring has; by every form of tiles.
  for (const std::int64_t inputs : {100, 200, 520}) {
    const Matrices weight = matrix(80, inputs);
    for (const std::int64_t count : {3, 16, 50, 150}) {
      const Rows x = rows(count, inputs);
      const Rows out = rows(count, 80);
      on_both([&](Device& device, auto of, auto matrix_of) { device.linear(of(x), *matrix_of(weight), of(out)); });
      expect_close(out, 1, "linear");
      const Rows last = rows(1, 80);
      bf16_->linear(x.bf16.tensor.row_range(count - 1, 1), *weight.bf16, last.bf16.tensor);
      Numbers alone(80), among(80);
      bf16_->download(last.bf16.tensor, alone);
      bf16_->download(out.bf16.tensor.row_range(count - 1, 1), among);
      expect_same(alone, among, "the last row alone");
    }
  }
  const Rows x = rows(40, 64);
  const Rows out = rows(40, 64);
  const Matrices gate_up = matrix(96, 64);
  const Matrices down = matrix(64, 48);
  // The experts own their weights; a weight that both devices read is packed once for each.
  ExpertWeights experts[2] = {{}, {}};
  int which = 0;
  const Numbers up_numbers = numbers(96 * 64);
  const Numbers down_numbers = numbers(64 * 48);
  const auto pack = [](Device& device, const Numbers& weight, std::int64_t outputs, std::int64_t inputs) {
    return device.pack({outputs, inputs, [&](std::int64_t first, std::int64_t rows_read, float* to) {
                          std::copy_n(weight.begin() + first * inputs, rows_read * inputs, to);
                        }});
  };
  on_both([&](Device& device, auto of, auto) {
    ExpertWeights& expert = experts[which++];
    expert.gate_up = pack(device, up_numbers, 96, 64);
    expert.down = pack(device, down_numbers, 64, 48);
    device.experts(of(x), std::vector<ExpertRows>{{&expert, 0, 7}, {&expert, 7, 33}}, of(out));
  });
  expect_close(out, 4, "experts");
}

TEST_F(Bf16Activations, OfSampling) {
  const Rows logits = rows(5, 1'500);
  std::vector<RowSampling> wanted;
  for (std::int32_t r = 0; r < 5; ++r) {
    wanted.push_back({.row = r, .top_k = 700 * (r % 3), .top_p = 1 - 0.1F * static_cast<float>(r), .share = 0.7});
    wanted.back().logprobs = 5;
  }
  std::vector<std::vector<Sampled>> sampled;
  on_both([&](Device& device, auto of, auto) { sampled.push_back(device.sample(of(logits), wanted)); });
  for (std::size_t r = 0; r < wanted.size(); ++r) {
    EXPECT_EQ(sampled[1][r].token, sampled[0][r].token);
    EXPECT_EQ(sampled[1][r].logprobs.chosen, sampled[0][r].logprobs.chosen);
    EXPECT_EQ(sampled[1][r].logprobs.top, sampled[0][r].logprobs.top);
  }
}

TEST_F(Bf16Activations, OfAttention) {
  constexpr int kBlockTokens = 16;
  const AttentionShape shape{6, 2, 32, 0.17F, 0};
  const std::int64_t length = 300;
  const std::vector<std::int32_t> blocks = [] {
    std::vector<std::int32_t> all(19);
    std::iota(all.rbegin(), all.rend(), 0);
    return all;
  }();
  const Rows k = rows(length, 64);
  const Rows v = rows(length, 64);
  const Rows q = rows(length, 192);
  const Rows out = rows(length, 192);
  const std::vector<SequenceRows> sequences{{0, length, 0, blocks}};
  on_both([&](Device& device, auto of, auto) {
    const std::size_t bytes = blocks.size() * kBlockTokens * 64 * size_of(device.activation_type());
    const DeviceMemory keys = device.allocate(bytes);
    const DeviceMemory values = device.allocate(bytes);
    const KvCache cache{keys.get(), values.get(), kBlockTokens, 32};
    device.write_kv(of(k), of(v), sequences, cache);
    device.attention(of(q), cache, sequences, shape, of(out));
    device.wait();
  });
  expect_close(out, 1, "attention");
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (coterie::cuda_devices().empty()) {
    std::puts("skipped: no GPU");
    return 77;
  }
  return RUN_ALL_TESTS();
}
