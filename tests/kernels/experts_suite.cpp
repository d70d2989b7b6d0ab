// Gated experts.
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

/// An expert with its weights as plain numbers.
struct Expert {
  Numbers gate_up;
  Numbers down;
  Numbers gate_up_bias;  ///< or none
  Numbers down_bias;
  ExpertWeights weights;
};

struct Kind {
  bool gate_up_bias;
  bool down_bias;
  Gating gating;
};

const std::vector<Kind> kinds = {
    {false, false, {}}, {true, true, {1.702F, 1, 7}}, {true, false, {1, 0, 0}}, {false, true, {0.5F, -2, 0.3F}}};

/// Makes experts on the device of a test, and computes as they do by plain loops.
class Experts {
 public:
  explicit Experts(DeviceTest& in) : test(in) {}

  Expert make(const Size& size, const Kind& kind) {
    Expert expert{
        test.normal(2 * size.width * size.hidden, 0.6F), test.normal(size.hidden * size.width, 0.2F), {}, {}, {}};
    if (kind.gate_up_bias) expert.gate_up_bias = test.normal(2 * size.width, 3);
    if (kind.down_bias) expert.down_bias = test.normal(size.hidden);
    expert.weights = {test.packed(expert.gate_up, 2 * size.width, size.hidden),
                      test.packed(expert.down, size.hidden, size.width), vector(expert.gate_up_bias),
                      vector(expert.down_bias), kind.gating};
    return expert;
  }

  /// A row through an expert, its middle in double precision.
  std::vector<Bounded> through(const Expert& expert, const Size& size, const Gating& gating, const Numbers& row) const {
    const auto w = static_cast<std::size_t>(size.width);
    const auto both = product(test.as_weights(row), test.as_weights(expert.gate_up), 1, size.hidden, 2 * size.width);
    const Numbers down = test.as_weights(expert.down);
    const auto biased = [&](std::size_t i) {
      Bounded y = both[i];
      if (!expert.gate_up_bias.empty()) y.value += expert.gate_up_bias[i];
      y.bound += std::abs(y.value) * 0x1p-23;
      return y;
    };
    // bf16: the middle is rounded once more, by a relative 2^-8.
    const double relative = DeviceTest::GetParam().options.weights == DType::bf16 ? 0x1p-8 : 0;
    std::vector<Bounded> middle(w);
    for (std::size_t i = 0; i < w; ++i) {
      Bounded gate = biased(i);
      Bounded up = biased(w + i);
      if (gating.limit > 0) {
        gate.value = std::min<double>(gate.value, gating.limit);
        up.value = std::clamp<double>(up.value, -gating.limit, gating.limit);
      }
      const double factor = gate.value / (1 + std::exp(-gating.alpha * gate.value));
      middle[i].value = (up.value + gating.offset) * factor;
      middle[i].bound = std::abs(middle[i].value) * (relative + 1e-6) +
                        1.2 * gate.bound * std::abs(up.value + gating.offset) +
                        std::abs(factor) * (up.bound + std::abs(gating.offset) * 0x1p-23);
    }
    std::vector<Bounded> out(static_cast<std::size_t>(size.hidden));
    for (std::size_t c = 0; c < out.size(); ++c) {
      out[c].bound = 1e-6;
      for (std::size_t i = 0; i < w; ++i) {
        out[c].value += middle[i].value * down[c * w + i];
        out[c].bound += std::abs(down[c * w + i]) * (middle[i].bound + 2e-6 * std::abs(middle[i].value));
      }
      if (!expert.down_bias.empty()) out[c].value += expert.down_bias[c];
      out[c].bound += std::abs(out[c].value) * 0x1p-23;
    }
    return out;
  }

 private:
  [[nodiscard]] DeviceArray vector(const Numbers& numbers) {
    if (numbers.empty()) return {};
    Array array = test.on_device(numbers, 1, static_cast<std::int64_t>(numbers.size()));
    return {std::move(array.memory), array.tensor};
  }

  DeviceTest& test;
};

TEST_P(DeviceTest, ExpertsAreGatedProducts) {
  Experts maker(*this);
  for (const Size& size : {Size{24, 40}, {128, 64}, {33, 7}}) {
    for (const Kind& kind : kinds) {
      SCOPED_TRACE(std::to_string(size.hidden) + " x " + std::to_string(size.width) + ", alpha " +
                   std::to_string(kind.gating.alpha));
      const auto hidden = static_cast<std::size_t>(size.hidden);
      std::vector<Expert> experts;
      for (int e = 0; e < 4; ++e) experts.push_back(maker.make(size, kind));
      const std::vector<std::int64_t> counts = {5, 0, 1, 70};
      std::vector<ExpertRows> groups;
      std::int64_t rows = 0;
      for (std::size_t e = 0; e < counts.size(); ++e) {
        groups.push_back({&experts[e].weights, rows, counts[e]});
        rows += counts[e];
      }
      const Numbers in = normal(rows * size.hidden);
      const Array x = on_device(in, rows, size.hidden, 4);
      const Array y = blank(rows, size.hidden, 2);
      device->experts(x.tensor, groups, y.tensor);
      const Numbers out = on_host(y);
      for (std::size_t e = 0; e < counts.size(); ++e) {
        for (std::int64_t r = groups[e].first_row; r < groups[e].first_row + counts[e]; ++r) {
          const auto at = static_cast<std::size_t>(r) * hidden;
          expect_within(Numbers(out.begin() + static_cast<std::ptrdiff_t>(at),
                                out.begin() + static_cast<std::ptrdiff_t>(at + hidden)),
                        maker.through(experts[e], size, kind.gating,
                                      Numbers(in.begin() + static_cast<std::ptrdiff_t>(at),
                                              in.begin() + static_cast<std::ptrdiff_t>(at + hidden))));
          if (HasFatalFailure()) return;
        }
      }
      // One row by itself gives the same bits.
      const Array lone = blank(1, size.hidden);
      const ExpertRows group{&experts[3].weights, 0, 1};
      device->experts(x.tensor.row_range(40, 1), std::span(&group, 1), lone.tensor);
      expect_same(on_host(lone), std::span(out).subspan(40 * hidden, hidden), "row 40 alone");
    }
  }
  const Array none = blank(0, 24);
  device->experts(none.tensor, {}, none.tensor);
}

TEST_P(DeviceTest, ExpertsRefuseABiasOfAnotherWidth) {
  Expert expert = Experts(*this).make({24, 40}, kinds[1]);
  const Array x = on_device(normal(24), 1, 24);
  const Array y = blank(1, 24);
  const ExpertRows group{&expert.weights, 0, 1};
  expert.weights.down_bias.view.cols = 23;
  EXPECT_THROW(device->experts(x.tensor, std::span(&group, 1), y.tensor), std::invalid_argument);
  expert.weights.down_bias.view.cols = 24;
  expert.weights.gate_up_bias.view.cols = 40;
  EXPECT_THROW(device->experts(x.tensor, std::span(&group, 1), y.tensor), std::invalid_argument);
}

}  // namespace
}  // namespace coterie
