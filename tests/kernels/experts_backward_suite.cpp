// Gradients of gated experts, beside plain loops in double precision.
#include "tests/kernels/device_suite.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace coterie {
namespace {

struct Size {
  std::int64_t hidden;
  std::int64_t width;
};

/// A number, and the sum of the sizes of what it was summed from: rounding errors are a few units of that.
struct Exact {
  double value = 0;
  double size = 0;

  // NOLINTNEXTLINE(google-explicit-constructor): any number is one
  Exact(double v = 0) : value(v), size(std::abs(v)) {}
  Exact(double v, double s) : value(v), size(s) {}
  Exact& operator+=(const Exact& b) { return *this = {value + b.value, size + b.size}; }
};
Exact operator*(const Exact& a, const Exact& b) {
  return {a.value * b.value, a.size * b.size};
}
Exact operator+(Exact a, const Exact& b) {
  return a += b;
}

using Exacts = std::vector<Exact>;

struct Expert {
  Numbers gate_up, down, gate_up_bias, down_bias;
  ExpertWeights weights;
};

struct Gradients {
  Exacts gate_up, down, gate_up_bias, down_bias;
};

struct RowGradients {
  Exacts in;
  Exact weight;
};

Exacts zeros(std::size_t count) {
  return Exacts(count);
}

/// One row's gradients; those of the weights are added.
RowGradients backward(const Expert& expert, const Size& size, std::span<const float> in, std::span<const float> dy,
                      float weight, Gradients& sums) {
  const auto w = static_cast<std::size_t>(size.width), d = static_cast<std::size_t>(size.hidden);
  const Gating& gating = expert.weights.gating;
  RowGradients row{zeros(d), 0};
  Exacts both(2 * w), by_both(2 * w);
  for (std::size_t i = 0; i < 2 * w; ++i) {
    if (!expert.gate_up_bias.empty()) both[i] = expert.gate_up_bias[i];
    for (std::size_t c = 0; c < d; ++c) both[i] += Exact(expert.gate_up[i * d + c]) * in[c];
  }
  for (std::size_t i = 0; i < w; ++i) {
    const bool limited = gating.limit > 0;
    const bool gate_held = limited && both[i].value > gating.limit;
    const bool up_held = limited && std::abs(both[w + i].value) > gating.limit;
    const Exact gate = gate_held ? Exact(gating.limit) : both[i];
    const Exact up = (up_held ? Exact(std::copysign(gating.limit, both[w + i].value)) : both[w + i]) + gating.offset;
    const double s = 1 / (1 + std::exp(-gating.alpha * gate.value));
    const Exact sigmoid(s, s * (1 + std::abs(gating.alpha) * gate.size));
    const Exact slope = Exact(1) + Exact(gating.alpha) * gate * Exact(1 - s, 1 + std::abs(gating.alpha) * gate.size);
    Exact by_hidden = 0;
    for (std::size_t c = 0; c < d; ++c) by_hidden += Exact(dy[c]) * expert.down[c * w + i];
    const Exact middle = up * gate * sigmoid;
    row.weight += middle * by_hidden;
    if (!gate_held) by_both[i] = Exact(weight) * by_hidden * up * sigmoid * slope;
    if (!up_held) by_both[w + i] = Exact(weight) * by_hidden * gate * sigmoid;
    for (std::size_t c = 0; c < d; ++c) sums.down[c * w + i] += Exact(weight) * dy[c] * middle;
  }
  for (std::size_t i = 0; i < 2 * w; ++i) {
    for (std::size_t c = 0; c < d; ++c) {
      row.in[c] += by_both[i] * expert.gate_up[i * d + c];
      sums.gate_up[i * d + c] += by_both[i] * in[c];
    }
    if (!expert.gate_up_bias.empty()) sums.gate_up_bias[i] += by_both[i];
  }
  for (std::size_t c = 0; c < d && !expert.down_bias.empty(); ++c) {
    row.weight += Exact(dy[c]) * expert.down_bias[c];
    sums.down_bias[c] += Exact(weight) * dy[c];
  }
  return row;
}

void expect_close(std::span<const float> actual, std::span<const Exact> expected, const std::string& what) {
  constexpr double unit = 0x1p-23;
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_LE(std::abs(actual[i] - expected[i].value), 8 * unit * expected[i].size + 1e-30)
        << what << ": number " << i << " is " << actual[i] << ", not " << expected[i].value;
  }
}

struct Kind {
  bool gate_up_bias;
  bool down_bias;
  Gating gating;
};

/// Makes experts on the device of a test.
class Experts {
 public:
  explicit Experts(DeviceTest& in) : test(in) {}

  Expert make(const Size& size, const Kind& kind) {
    Expert expert{
        test.normal(2 * size.width * size.hidden, 0.5F), test.normal(size.hidden * size.width, 0.5F), {}, {}, {}};
    if (kind.gate_up_bias) expert.gate_up_bias = test.normal(2 * size.width);
    if (kind.down_bias) expert.down_bias = test.normal(size.hidden);
    expert.weights = {test.packed(expert.gate_up, 2 * size.width, size.hidden),
                      test.packed(expert.down, size.hidden, size.width), vector(expert.gate_up_bias),
                      vector(expert.down_bias), kind.gating};
    return expert;
  }

 private:
  DeviceArray vector(const Numbers& numbers) {
    if (numbers.empty()) return {};
    Array array = test.on_device(numbers, 1, static_cast<std::int64_t>(numbers.size()));
    return {std::move(array.memory), array.tensor};
  }

  DeviceTest& test;
};

/// The gradients of an expert's weights, beginning with ones so that adding shows.
struct Sums {
  Array gate_up, down, gate_up_bias, down_bias;

  Sums(DeviceTest& test, const Size& size)
      : gate_up(ones(test, 2 * size.width, size.hidden)),
        down(ones(test, size.hidden, size.width)),
        gate_up_bias(ones(test, 1, 2 * size.width)),
        down_bias(ones(test, 1, size.hidden)) {}

  [[nodiscard]] ExpertGradients views() const {
    return {gate_up.tensor, down.tensor, gate_up_bias.tensor, down_bias.tensor};
  }
  static Array ones(DeviceTest& test, std::int64_t rows, std::int64_t cols) {
    return test.on_device(Numbers(static_cast<std::size_t>(rows * cols), 1), rows, cols, 3);
  }
};

TEST_P(GradientDeviceTest, ExpertsGiveTheirGradients) {
  for (const Kind& kind : {Kind{false, false, {}}, {true, true, {1.702F, 1, 2}}, {false, true, {0.5F, -2, 0.3F}}}) {
    for (const Size& size : {Size{24, 40}, {64, 48}, {33, 7}}) {
      SCOPED_TRACE(std::to_string(size.hidden) + " x " + std::to_string(size.width) + ", alpha " +
                   std::to_string(kind.gating.alpha));
      const auto d = static_cast<std::size_t>(size.hidden);
      const std::vector<std::int64_t> counts = {5, 0, 1, 70};
      std::vector<Expert> experts;
      std::vector<Sums> sums;
      std::vector<ExpertRows> groups;
      std::vector<ExpertGradients> gradients;
      std::int64_t rows = 0;
      experts.reserve(counts.size());
      for (const std::int64_t count : counts) {
        experts.push_back(Experts(*this).make(size, kind));
        sums.emplace_back(*this, size);
        groups.push_back({&experts.back().weights, std::exchange(rows, rows + count), count});
        gradients.push_back(sums.back().views());
      }
      const Numbers in = normal(rows * size.hidden), dy = normal(rows * size.hidden), weights = normal(rows);
      const Array x = on_device(in, rows, size.hidden, 4), by_y = on_device(dy, rows, size.hidden, 1);
      const Array by_x = blank(rows, size.hidden, 2);
      Numbers by_weights(static_cast<std::size_t>(rows), NAN);
      device->experts_backward({x.tensor, by_y.tensor, weights, by_x.tensor, by_weights}, groups, gradients);

      const Numbers by_in = on_host(by_x);
      for (std::size_t e = 0; e < counts.size(); ++e) {
        Gradients expected{Exacts(experts[e].gate_up.size(), 1.0), Exacts(experts[e].down.size(), 1.0),
                           Exacts(2 * static_cast<std::size_t>(size.width), 1.0), Exacts(d, 1.0)};
        for (std::int64_t i = groups[e].first_row; i < groups[e].first_row + counts[e]; ++i) {
          const auto r = static_cast<std::size_t>(i);
          const RowGradients row = backward(experts[e], size, std::span(in).subspan(r * d, d),
                                            std::span(dy).subspan(r * d, d), weights[r], expected);
          expect_close(std::span(by_in).subspan(r * d, d), row.in, "row " + std::to_string(r));
          expect_close(std::span(by_weights).subspan(r, 1), std::span(&row.weight, 1), "weight " + std::to_string(r));
        }
        expect_close(on_host(sums[e].gate_up), expected.gate_up, "gate and up of " + std::to_string(e));
        expect_close(on_host(sums[e].down), expected.down, "down of " + std::to_string(e));
        expect_close(on_host(sums[e].gate_up_bias), expected.gate_up_bias, "gate's and up's bias");
        expect_close(on_host(sums[e].down_bias), expected.down_bias, "down's bias");
        if (HasFatalFailure()) return;
      }

      // A row by itself gives the same bits.
      const Array lone = blank(1, size.hidden);
      Numbers lone_weight(1);
      const ExpertRows group{&experts[3].weights, 0, 1};
      device->experts_backward({x.tensor.row_range(40, 1), by_y.tensor.row_range(40, 1),
                                std::span(weights).subspan(40, 1), lone.tensor, lone_weight},
                               std::span(&group, 1), std::span(&gradients[3], 1));
      expect_same(on_host(lone), std::span(by_in).subspan(40 * d, d), "row 40 alone");
      expect_same(lone_weight, std::span(by_weights).subspan(40, 1), "the weight of row 40 alone");
    }
  }
}

/// Numbers that bf16 holds are packed in half the memory, and more rows than are summed at a time are cut up: neither
/// changes what is computed.
TEST_P(GradientDeviceTest, ExpertsCutManyRowsAndKeepHalvesExactly) {
  const Size size{16, 32};
  Expert expert = Experts(*this).make(size, {false, false, {}});
  for (Numbers* numbers : {&expert.gate_up, &expert.down}) {
    for (float& x : *numbers) x = rounded_to_bf16(x);
  }
  const auto source = [](const Numbers& numbers, std::int64_t rows, std::int64_t cols) {
    return WeightSource{rows, cols,
                        [&numbers, cols](std::int64_t first, std::int64_t count, float* out) {
                          std::copy_n(numbers.begin() + first * cols, count * cols, out);
                        },
                        true};
  };
  expert.weights.gate_up = device->pack(source(expert.gate_up, 2 * size.width, size.hidden));
  expert.weights.down = device->pack(source(expert.down, size.hidden, size.width));
  const std::int64_t rows = 2100;
  const Numbers in = normal(rows * size.hidden), dy = normal(rows * size.hidden), weights = normal(rows);
  const Array x = on_device(in, rows, size.hidden), by_y = on_device(dy, rows, size.hidden);
  const Array by_x = blank(rows, size.hidden);
  Numbers by_weights(static_cast<std::size_t>(rows));
  const Sums sums(*this, size);
  const ExpertGradients gradients = sums.views();
  const ExpertRows group{&expert.weights, 0, rows};
  device->experts_backward({x.tensor, by_y.tensor, weights, by_x.tensor, by_weights}, std::span(&group, 1),
                           std::span(&gradients, 1));
  Gradients expected{Exacts(expert.gate_up.size(), 1.0), Exacts(expert.down.size(), 1.0), {}, {}};
  const auto d = static_cast<std::size_t>(size.hidden);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
    (void)backward(expert, size, std::span(in).subspan(r * d, d), std::span(dy).subspan(r * d, d), weights[r],
                   expected);
  }
  expect_close(on_host(sums.gate_up), expected.gate_up, "gate and up");
  expect_close(on_host(sums.down), expected.down, "down");
}

TEST_P(GradientDeviceTest, ExpertsRefuseWhatDoesNotFit) {
  const Size size{24, 40};
  const Expert expert = Experts(*this).make(size, {false, false, {}});
  const Sums sums(*this, size);
  const Array x = on_device(normal(24), 1, 24);
  const Array by_x = blank(1, 24);
  Numbers by_weights(1);
  const Numbers weights(1, 1);
  const ExpertRows group{&expert.weights, 0, 1};
  const auto call = [&](const Numbers& given, const ExpertGradients& gradients) {
    device->experts_backward({x.tensor, x.tensor, given, by_x.tensor, by_weights}, std::span(&group, 1),
                             std::span(&gradients, 1));
  };
  EXPECT_NO_THROW(call(weights, sums.views()));
  EXPECT_THROW(call(Numbers(2), sums.views()), std::invalid_argument);
  EXPECT_THROW(call(weights, {sums.down.tensor, sums.gate_up.tensor}), std::invalid_argument);
  const auto narrow = make_cpu_device({DType::bf16, 1});
  EXPECT_THROW(narrow->experts_backward({}, std::span(&group, 1), {}), std::invalid_argument);
}

}  // namespace
}  // namespace coterie
