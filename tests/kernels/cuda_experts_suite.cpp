// Experts in bf16 on a GPU, by each of its kernels, beside plain loops.
#include "kernels/cuda_devices.hpp"
#include "tests/kernels/device_suite.hpp"

#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <tuple>

namespace coterie {
namespace {

struct Case {
  std::int64_t hidden, width;
  std::vector<std::int64_t> counts;  ///< rows of each expert
  Gating gating = {};
  bool biased = false;
  std::int64_t gap = 0;  ///< numbers between the rows
};

struct Numbered {
  Numbers gate_up, down, gate_up_bias, down_bias;
  ExpertWeights weights;
};

class CudaExperts : public testing::TestWithParam<ExpertKernels> {
 protected:
  void SetUp() override {
    try {
      device_ = make_cuda_device({DType::bf16, 1, DType::bf16}, 0, GetParam());
    } catch (const std::runtime_error& e) {
      const bool older = std::string_view(e.what()).find("need compute capability 9.0") != std::string_view::npos;
      if (GetParam() != ExpertKernels::wgmma || !older) throw;
      GTEST_SKIP() << e.what();
    }
  }

  Numbers drawn(std::int64_t count, float deviation) {
    std::normal_distribution<float> normal(0, deviation);
    Numbers out(static_cast<std::size_t>(count));
    for (float& x : out) x = rounded_to_bf16(normal(random_));
    return out;
  }
  Array array(const Numbers& numbers, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0) {
    Array out;
    out.tensor = device_->allocate(rows, cols + gap, out.memory);
    device_->upload(Numbers(static_cast<std::size_t>(rows * (cols + gap)), std::numeric_limits<float>::quiet_NaN()),
                    out.tensor);
    out.tensor = out.tensor.col_range(0, cols);
    if (!numbers.empty()) device_->upload(numbers, out.tensor);
    return out;
  }
  DeviceArray vector(const Numbers& numbers) {
    Array out = array(numbers, 1, static_cast<std::int64_t>(numbers.size()));
    return {std::move(out.memory), out.tensor};
  }
  std::unique_ptr<PackedMatrix> packed(const Numbers& weight, std::int64_t rows, std::int64_t cols, WeightUse use) {
    WeightSource source{rows, cols, [&](std::int64_t first, std::int64_t count, float* out) {
                          std::copy_n(weight.begin() + first * cols, count * cols, out);
                        }};
    source.use = use;
    return device_->pack(source);
  }
  Numbered expert(const Case& c) {
    Numbered e{drawn(2 * c.width * c.hidden, 0.3F), drawn(c.hidden * c.width, 0.3F), {}, {}, {}};
    e.weights = {packed(e.gate_up, 2 * c.width, c.hidden, WeightUse::expert_gate_up),
                 packed(e.down, c.hidden, c.width, WeightUse::expert_down),
                 {},
                 {},
                 c.gating};
    if (!c.biased) return e;
    e.gate_up_bias = drawn(2 * c.width, 1);
    e.down_bias = drawn(c.hidden, 1);
    e.weights.gate_up_bias = vector(e.gate_up_bias);
    e.weights.down_bias = vector(e.down_bias);
    return e;
  }

  /// A row through an expert, with what rounding to bf16 may change: the middle once, the result twice, and by cuBLAS
  /// what is in between.
  static std::vector<Bounded> through(const Numbered& e, const Case& c, const float* row) {
    const auto d = static_cast<std::size_t>(c.hidden), w = static_cast<std::size_t>(c.width);
    constexpr double half = 0x1p-8, sums = 1e-5;
    std::vector<Bounded> both(2 * w), middle(w), out(d);
    for (std::size_t i = 0; i < 2 * w; ++i) {
      if (!e.gate_up_bias.empty()) both[i].value = e.gate_up_bias[i];
      both[i].bound = sums * std::abs(both[i].value);
      double product = 0;
      for (std::size_t k = 0; k < d; ++k) {
        const float term = row[k] * e.gate_up[i * d + k];  // exact: two bf16s
        product += term;
        both[i].bound += sums * std::abs(term);
      }
      both[i].value += product;
      if (GetParam() == ExpertKernels::cublas) both[i].bound += half * std::abs(product);
    }
    for (std::size_t i = 0; i < w; ++i) {
      double gate = both[i].value, up = both[w + i].value;
      if (c.gating.limit > 0) {
        gate = std::min<double>(gate, c.gating.limit);
        up = std::clamp<double>(up, -c.gating.limit, c.gating.limit);
      }
      up += c.gating.offset;
      const double silu = gate / (1 + std::exp(-c.gating.alpha * gate));
      middle[i].value = up * silu;
      middle[i].bound = std::abs(middle[i].value) * (half + sums) + 1.2 * both[i].bound * std::abs(up) +
                        both[w + i].bound * std::abs(silu) + 1e-7;
    }
    for (std::size_t k = 0; k < d; ++k) {
      for (std::size_t i = 0; i < w; ++i) {
        const double weight = e.down[k * w + i];
        out[k].value += middle[i].value * weight;
        out[k].bound += std::abs(weight) * (middle[i].bound + sums * std::abs(middle[i].value));
      }
      out[k].bound += half * (std::abs(out[k].value) + out[k].bound);
      if (!e.down_bias.empty()) out[k].value += e.down_bias[k];
      out[k].bound += half * (std::abs(out[k].value) + out[k].bound) + 1e-6;
    }
    return out;
  }

  /// Every row of the experts' results, or about `checked` rows of each expert.
  void expect_products(const Case& c, std::int64_t checked) {
    SCOPED_TRACE(std::to_string(c.counts.size()) + " experts of " + std::to_string(c.hidden) + " x " +
                 std::to_string(c.width));
    std::vector<Numbered> experts;
    std::vector<ExpertRows> groups;
    std::int64_t rows = 0;
    for (std::size_t e = 0; e < c.counts.size(); ++e) experts.push_back(expert(c));
    for (std::size_t e = 0; e < c.counts.size(); rows += c.counts[e++]) {
      groups.push_back({&experts[e].weights, rows, c.counts[e]});
    }
    const Numbers in = drawn(rows * c.hidden, 1);
    const Array x = array(in, rows, c.hidden, c.gap);
    const Array y = array({}, rows, c.hidden, c.gap);
    device_->experts(x.tensor, groups, y.tensor);
    Numbers out(in.size());
    device_->download(y.tensor, out);
    for (std::size_t e = 0; e < groups.size(); ++e) {
      const std::int64_t step = std::max<std::int64_t>(1, groups[e].rows / checked);
      for (std::int64_t r = 0; r < groups[e].rows; ++r) {
        if (r % step != 0 && r + 1 < groups[e].rows) continue;
        const auto at = (groups[e].first_row + r) * c.hidden;
        SCOPED_TRACE("expert " + std::to_string(e) + ", row " + std::to_string(r) + " of " +
                     std::to_string(groups[e].rows));
        expect_within(Numbers(out.begin() + at, out.begin() + at + c.hidden), through(experts[e], c, in.data() + at));
        if (HasFatalFailure()) return;
      }
    }
    for (const float number : out) ASSERT_FALSE(std::isnan(number)) << "a row that wasn't written";
    expect_alone(groups.back(), x, y);
  }

  /// The last row of a group by itself gives the same bits.
  void expect_alone(const ExpertRows& group, const Array& x, const Array& y) {
    if (group.rows == 0 || GetParam() == ExpertKernels::cublas) return;
    const std::int64_t row = group.first_row + group.rows - 1;
    const Array lone = array({}, 1, x.tensor.cols);
    const ExpertRows one{group.expert, 0, 1};
    device_->experts(x.tensor.row_range(row, 1), std::span(&one, 1), lone.tensor);
    Numbers alone(static_cast<std::size_t>(x.tensor.cols)), among(alone.size());
    device_->download(lone.tensor, alone);
    device_->download(y.tensor.row_range(row, 1), among);
    expect_same(alone, among, "the last row alone");
  }

  const unsigned seed_ = std::random_device{}();
  std::mt19937 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, "seed " + std::to_string(seed_)};
  std::unique_ptr<Device> device_;
};

INSTANTIATE_TEST_SUITE_P(By, CudaExperts,
                         testing::Values(ExpertKernels::mma, ExpertKernels::wgmma, ExpertKernels::cublas),
                         [](const auto& instance) {
                           return instance.param == ExpertKernels::mma     ? "mma"
                                  : instance.param == ExpertKernels::wgmma ? "wgmma"
                                                                           : "cublas";
                         });

TEST_P(CudaExperts, OfAnyNumbersOfRows) {
  expect_products({64, 32, {1, 0, 16, 17, 63, 64, 65}}, 100);
  expect_products({72, 24, {127, 128, 129, 0, 191, 193, 255, 256, 257, 0}}, 5);
  expect_products({40, 8, {4096, 0, 1, 1300}}, 40);
}

TEST_P(CudaExperts, OfAnyWidths) {
  const auto some = [&](std::int64_t most) { return std::uniform_int_distribution<std::int64_t>(1, most)(random_); };
  for (const auto& [hidden, width] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {128, 128}, {136, 200}, {33, 7}, {260, 36}}) {
    expect_products({hidden, width, {3, 70}, {1.702F, 1, 7}, true, 0}, 20);
  }
  for (int i = 0; i < 3; ++i) {
    expect_products({some(300), some(150), {some(20), 0, some(90)}, {1, 0, 0}, i == 1, some(9)}, 10);
  }
}

TEST_P(CudaExperts, OfRowsThatTheDeviceAloneKnows) {
  for (const auto& [rows, count, c] :
       {std::tuple<std::int64_t, int, Case>{3, 9, {64, 32, {}}}, {700, 2, {72, 24, {}, {1.702F, 1, 7}, true}}}) {
    std::vector<ExpertWeights> experts;
    for (int e = 0; e < count; ++e) experts.push_back(expert(c).weights);
    const Array in = array(drawn(rows * c.hidden, 1), rows, c.hidden);
    const auto router = packed(drawn(count * c.hidden, 0.3F), count, c.hidden, WeightUse::linear);
    expect_groups(*device_, {in.tensor, *router, {.top_k = 2}, experts, 0.5F});
  }
}

TEST_P(CudaExperts, OfManyExperts) {
  for (const int experts : {8, 32, 128, 256}) {
    if (experts > 8 && GetParam() == ExpertKernels::mma) break;  // tiles of its own for each expert, wherever they are
    std::vector<std::int64_t> counts(static_cast<std::size_t>(experts));
    for (auto& count : counts) count = static_cast<std::int64_t>(random_() % 4);
    counts[random_() % counts.size()] = 300;
    expect_products({72, 24, counts}, 3);
  }
}

TEST_P(CudaExperts, OfShapesThatWereMeasured) {
  const Case c{48, 16, {5, 0, 3}};
  std::vector<Numbered> experts;
  std::vector<const ExpertWeights*> weights;
  for (int e = 0; e < 8; ++e) experts.push_back(expert(c));
  for (const Numbered& e : experts) weights.push_back(&e.weights);
  device_->prepare_experts(weights, 100);
  expect_products(c, 10);  // whichever is taken
}

TEST_P(CudaExperts, OfWeightsThatWereSent) {
  const Case c{96, 40, {5}};
  const Numbered e = expert(c);
  const auto moved = [&](const PackedMatrix& matrix) { return device_->adopt(matrix.form(), matrix.bytes()); };
  const ExpertWeights sent{moved(*e.weights.gate_up), moved(*e.weights.down), {}, {}, {}};
  const Array x = array(drawn(480, 1), 5, 96);
  const Array y = array({}, 5, 96), z = array({}, 5, 96);
  const ExpertRows first{&e.weights, 0, 5}, second{&sent, 0, 5};
  device_->experts(x.tensor, std::span(&first, 1), y.tensor);
  device_->experts(x.tensor, std::span(&second, 1), z.tensor);
  Numbers one(480), two(480);
  device_->download(y.tensor, one);
  device_->download(z.tensor, two);
  expect_same(one, two, "a view of the weights");
}

TEST_P(CudaExperts, OnlyByWgmmaKeepTheirWeightsToThemselves) {
  const Numbered e = expert({96, 40, {}});
  const Array x = array(drawn(80, 1), 2, 40);
  const Array y = array({}, 2, 96);
  const auto product = [&] { device_->linear(x.tensor, *e.weights.down, y.tensor); };
  if (GetParam() != ExpertKernels::wgmma) {
    EXPECT_NO_THROW(product());
  } else {
    EXPECT_THROW(product(), std::invalid_argument);
  }
}

TEST(CublasExperts, NeedOneType) {
  EXPECT_NO_THROW((void)make_cuda_device({}, 0, ExpertKernels::cublas));
  EXPECT_THROW((void)make_cuda_device({DType::bf16, 1}, 0, ExpertKernels::cublas), std::runtime_error);
}

}  // namespace
}  // namespace coterie
