// Times the CPU's operations beside the machine's own measured peak and beside oneDNN, interleaved in one run; every
// figure is the median of the repetitions, with the slowest quarter's bound behind it.
// usage: kernels_bench [products|attention|latent|experts|rows]... (default: all)
#include "kernels/device.hpp"
#include "tests/bench/onednn_product.hpp"
#include "tests/bench/peak.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace coterie {
namespace {

/// Median and upper quartile of the seconds of a call.
struct Timing {
  double median = 0;
  double upper = 0;
};

using Call = std::function<void()>;

/// The calls in turn, repetition by repetition, each often enough for the clock.
std::vector<Timing> time_in_turn(const std::vector<Call>& calls, double seconds_each = 0.15) {
  std::vector<int> often;
  for (const Call& call : calls) {
    call();
    const double start = cpu_seconds();
    call();
    often.push_back(std::max(1, static_cast<int>(50e-6 / std::max(1e-9, cpu_seconds() - start))));
  }
  std::vector<std::vector<double>> times(calls.size());
  double spent = 0;
  for (int i = 0; i < 1000 && (i < 5 || spent < seconds_each * static_cast<double>(calls.size())); ++i) {
    for (std::size_t c = 0; c < calls.size(); ++c) {
      const double start = cpu_seconds();
      for (int n = 0; n < often[c]; ++n) calls[c]();
      const double took = cpu_seconds() - start;
      times[c].push_back(took / often[c]);
      spent += took;
    }
  }
  std::vector<Timing> timings;
  for (std::vector<double>& t : times) {
    std::ranges::sort(t);
    timings.push_back({t[t.size() / 2], t[t.size() * 3 / 4]});
  }
  return timings;
}

class Bench {
 public:
  Bench() : f32_(make_cpu_device({DType::f32, 1})), bf16_(make_cpu_device({DType::bf16, 1})) {
    std::printf("%s, one thread; peak %.0f GFLOP/s in f32", f32_->name().c_str(), peak_f32());
    if (peak_bf16() > 0) std::printf(", %.0f in bf16", peak_bf16());
    std::printf("\n");
  }

  void products() {
    std::printf(
        "\nproducts: microseconds (GFLOP/s) of Coterie and of oneDNN: packed, plain weights; f32, then bf16 packed\n");
    for (const auto& [outputs, inputs] :
         {std::pair{128, 128}, {256, 128}, {1024, 1024}, {4096, 1024}, {1024, 2048}, {16, 1024}}) {
      for (const int rows : {1, 2, 4, 8, 16, 32, 64, 256}) product(rows, inputs, outputs);
    }
  }

  void attention() {
    std::printf(
        "\nattention: heads/kv_heads x head_dim, sequences x new rows at a context: time, GFLOP/s, GB/s of cache "
        "read\n");
    attend(16, 4, 64, 32, 1, 512);
    attend(16, 4, 64, 256, 1, 512);
    attend(16, 16, 64, 32, 1, 512);
    attend(32, 8, 128, 32, 1, 2048);
    attend(4, 2, 32, 32, 1, 64);
    attend(4, 2, 32, 256, 1, 64);
    attend(16, 4, 64, 1, 512, 0);
    attend(16, 16, 64, 1, 2048, 0);
    attend(32, 8, 128, 1, 512, 4096);
    attend(4, 2, 32, 8, 64, 0);
  }

  /// DeepSeek-V2-Lite's and V3's shapes.
  void latent() {
    std::printf(
        "\nlatent attention with its projections by head: heads, sequences x new rows at a context: time, GFLOP/s of "
        "the\nattention; beside it the plain form: new rows' keys and values expanded, all of them in the cache\n");
    for (const int heads : {16, 128}) {
      attend_latent(heads, 32, 1, 512);
      attend_latent(heads, 1, 1, 2048);
      attend_latent(heads, 1, 128, 0);
    }
  }

  void experts() {
    std::printf("\nexperts: hidden x intermediate x experts, rows dealt unevenly: time, GFLOP/s, %% of peak\n");
    for (Device* device : {f32_.get(), bf16_.get()}) {
      for (const int rows : {32, 256, 2048}) group(*device, 1024, 2048, 8, rows);
      for (const int rows : {32, 256, 2048}) group(*device, 128, 128, 16, rows);
    }
  }

  void rows() {
    std::printf("\nrow operations: 64 rows of 1024: time, GB/s read and written\n");
    const std::int64_t n = 64;
    const std::int64_t d = 1024;
    const Array x = array(n, d);
    const Array y = array(n, d);
    const Array w = array(1, d);
    const Array table = array(1000, d);
    std::vector<std::int32_t> ids(n);
    std::vector<std::int64_t> positions(n);
    std::vector<std::int64_t> offsets(n + 1);
    std::vector<Contribution> parts(2 * n);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<std::int32_t>(i * 13 % 1000);
      positions[i] = static_cast<std::int64_t>(100 + i);
      offsets[i + 1] = static_cast<std::int64_t>(2 * (i + 1));
      parts[2 * i] = {static_cast<std::int32_t>(i), 0.5F};
      parts[2 * i + 1] = {static_cast<std::int32_t>(n - 1 - static_cast<std::int64_t>(i)), 0.5F};
    }
    Rotary rotary;
    for (int i = 0; i < 32; ++i) rotary.inverse_frequencies.push_back(1.0F / static_cast<float>(1 + i * i));
    const std::vector<std::pair<std::string, Call>> calls = {
        {"rms_norm", [&] { f32_->rms_norm(x.tensor, w.tensor, 1e-5F, y.tensor); }},
        {"rotary (same positions)", [&] { f32_->rotary(x.tensor, 64, rotary, positions); }},
        {"rotary (new positions)",
         [&] {
           ++positions[0];
           f32_->rotary(x.tensor, 64, rotary, positions);
         }},
        {"gather", [&] { f32_->gather(table.tensor, ids, y.tensor); }},
        {"combine of two", [&] { f32_->combine(x.tensor, offsets, parts, y.tensor); }},
        {"clamp", [&] { f32_->clamp(y.tensor, 8); }}};
    for (const auto& [name, call] : calls) {
      const Timing t = time_in_turn({call})[0];
      std::printf("%-26s %8.2f us (%.2f)  %6.1f GB/s\n", name.c_str(), t.median * 1e6, t.upper * 1e6,
                  static_cast<double>(2 * n * d * 4) / t.median / 1e9);
    }
  }

 private:
  struct Array {
    DeviceMemory memory;
    Tensor tensor;
  };
  std::vector<float> numbers(std::int64_t count, float deviation = 1) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> out(static_cast<std::size_t>(count));
    for (float& x : out) x = normal(random_);
    return out;
  }
  Array array(std::int64_t rows, std::int64_t cols) {
    Array a;
    a.tensor = f32_->allocate(rows, cols, a.memory);
    f32_->upload(numbers(rows * cols), a.tensor);
    return a;
  }
  std::unique_ptr<PackedMatrix> packed(Device& device, std::int64_t rows, std::int64_t cols) {
    const std::vector<float> weight = numbers(rows * cols, 0.05F);
    return device.pack({rows, cols, [&](std::int64_t first, std::int64_t count, float* out) {
                          std::memcpy(out, weight.data() + first * cols, static_cast<std::size_t>(count * cols) * 4);
                        }});
  }

  void product(int rows, int inputs, int outputs) {
    const Array x = array(rows, inputs);
    const Array y = array(rows, outputs);
    const auto f32 = packed(*f32_, outputs, inputs);
    const auto bf16 = packed(*bf16_, outputs, inputs);
    const auto weight = numbers(std::int64_t{outputs} * inputs);
    OneDnnProduct dnn(rows, inputs, outputs, weight);
    const auto* in = reinterpret_cast<const float*>(x.tensor.data);
    auto* out = reinterpret_cast<float*>(y.tensor.data);
    const auto t = time_in_turn({[&] { f32_->linear(x.tensor, *f32, y.tensor); }, [&] { dnn.packed(in, out); },
                                 [&] { dnn.plain(in, out); }, [&] { bf16_->linear(x.tensor, *bf16, y.tensor); },
                                 [&] { dnn.packed_bf16(in, out); }});
    const double flops = 2.0 * rows * inputs * outputs;
    std::printf("%4d x %4d x %4d ", rows, inputs, outputs);
    for (const Timing& timing : t) std::printf(" %9.2f (%3.0f)", timing.median * 1e6, flops / timing.median / 1e9);
    std::printf("  %3.0f %% of peak\n", flops / t[0].median / 1e9 / peak_f32() * 100);
  }

  void attend(int heads, int kv_heads, int head_dim, int sequences, int rows, int context) {
    const int tokens = 16;
    const int blocks_each = (context + rows + tokens - 1) / tokens;
    const std::int64_t kv_cols = std::int64_t{kv_heads} * head_dim;
    const Array keys = array(std::int64_t{blocks_each} * sequences, tokens * kv_cols);
    const Array values = array(std::int64_t{blocks_each} * sequences, tokens * kv_cols);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(blocks_each * sequences));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
    std::ranges::shuffle(ids, random_);
    std::vector<SequenceRows> of;
    of.reserve(static_cast<std::size_t>(sequences));
    const auto blocks = static_cast<std::size_t>(blocks_each);
    for (std::size_t s = 0; s < static_cast<std::size_t>(sequences); ++s) {
      of.push_back({static_cast<std::int64_t>(s) * rows, rows, context, std::span(ids).subspan(s * blocks, blocks)});
    }
    const std::int64_t total = std::int64_t{sequences} * rows;
    const Array q = array(total, std::int64_t{heads} * head_dim);
    const Array out = array(total, std::int64_t{heads} * head_dim);
    const Array k = array(total, kv_cols);
    const KvCache cache{keys.tensor.data, values.tensor.data, tokens, head_dim};
    const AttentionShape shape{heads, kv_heads, head_dim, 1.0F / static_cast<float>(head_dim), 0};
    const auto t = time_in_turn({[&] { f32_->attention(q.tensor, cache, of, shape, out.tensor); },
                                 [&] { f32_->write_kv(k.tensor, k.tensor, of, cache); }});
    double pairs = 0;
    for (int r = 0; r < rows; ++r) pairs += context + r + 1;
    const double flops = 4.0 * pairs * sequences * heads * head_dim;
    const double bytes = 8.0 * (context + rows) * sequences * static_cast<double>(kv_cols);
    std::printf("%2d/%2d x %3d, %3d x %4d at %4d: %9.1f us (%.1f)  %6.1f GFLOP/s  %6.1f GB/s, write_kv %.1f us\n",
                heads, kv_heads, head_dim, sequences, rows, context, t[0].median * 1e6, t[0].upper * 1e6,
                flops / t[0].median / 1e9, bytes / t[0].median / 1e9, t[1].median * 1e6);
  }

  /// Blocks of a cache in a random order, and the rows of a step.
  struct Step {
    Step(int sequences, int rows, int context, std::mt19937& random) {
      const auto blocks = static_cast<std::size_t>((context + rows + 15) / 16);
      ids.resize(blocks * static_cast<std::size_t>(sequences));
      for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
      std::ranges::shuffle(ids, random);
      for (int s = 0; s < sequences; ++s) {
        of.push_back({std::int64_t{s} * rows, rows, context, std::span(ids).subspan(std::size_t(s) * blocks, blocks)});
      }
    }
    std::vector<std::int32_t> ids;
    std::vector<SequenceRows> of;
  };

  void attend_latent(int heads, int sequences, int rows, int context) {
    constexpr int latent = 512;
    constexpr int rope = 64;
    constexpr int head = 128;  // of what isn't rotated, and of values
    const Step step(sequences, rows, context, random_);
    const auto blocks = static_cast<std::int64_t>(step.ids.size());
    const std::int64_t total = std::int64_t{sequences} * rows;
    std::vector<std::unique_ptr<PackedMatrix>> to_latent;
    std::vector<std::unique_ptr<PackedMatrix>> from_latent;
    for (int h = 0; h < heads; ++h) {
      to_latent.push_back(packed(*f32_, latent, head));
      from_latent.push_back(packed(*f32_, head, latent));
    }
    const Array q_nope = array(total, std::int64_t{heads} * head);
    const Array q_rope = array(total, std::int64_t{heads} * rope);
    const Array q_latent = array(total, std::int64_t{heads} * latent);
    const Array mean = array(total, std::int64_t{heads} * latent);
    const Array out = array(total, std::int64_t{heads} * head);
    const Array cached = array(blocks, std::int64_t{16} * (latent + rope));
    const KvCache cache{cached.tensor.data, nullptr, 16, 0};
    const LatentShape shape{heads, latent, rope, 0.07F};

    const std::int64_t plain_width = std::int64_t{heads} * (head + rope);
    const auto expand = packed(*f32_, std::int64_t{heads} * 2 * head, latent);
    const Array rows_latent = array(total, latent);
    const Array expanded = array(total, std::int64_t{heads} * 2 * head);
    const Array q = array(total, plain_width);
    const Array plain_out = array(total, plain_width);
    const Array keys = array(blocks, 16 * plain_width);
    const Array values = array(blocks, 16 * plain_width);
    const KvCache plain_cache{keys.tensor.data, values.tensor.data, 16, head + rope};
    const AttentionShape plain{heads, heads, head + rope, 0.07F, 0};

    const auto t = time_in_turn(
        {[&] { f32_->linear_by_head(q_nope.tensor, to_latent, q_latent.tensor); },
         [&] { f32_->latent_attention(q_latent.tensor, q_rope.tensor, cache, step.of, shape, mean.tensor); },
         [&] { f32_->linear_by_head(mean.tensor, from_latent, out.tensor); },
         [&] { f32_->linear(rows_latent.tensor, *expand, expanded.tensor); },
         [&] { f32_->attention(q.tensor, plain_cache, step.of, plain, plain_out.tensor); }});
    double pairs = 0;
    for (int r = 0; r < rows; ++r) pairs += context + r + 1;
    const double flops = 2.0 * pairs * sequences * heads * (2 * latent + rope);
    std::printf(
        "%3d heads, %2d x %3d at %4d: %8.0f us (%.0f) + by head %.0f us, %5.1f GFLOP/s; plain %8.0f us (%.0f) "
        "+ %.0f us\n",
        heads, sequences, rows, context, t[1].median * 1e6, t[1].upper * 1e6, (t[0].median + t[2].median) * 1e6,
        flops / t[1].median / 1e9, t[4].median * 1e6, t[4].upper * 1e6, t[3].median * 1e6);
  }

  void group(Device& device, int hidden, int width, int experts, int rows) {
    std::vector<ExpertWeights> weights;
    weights.reserve(static_cast<std::size_t>(experts));
    for (int e = 0; e < experts; ++e) {
      weights.push_back({packed(device, std::int64_t{2} * width, hidden), packed(device, hidden, width)});
    }
    std::vector<int> counts(static_cast<std::size_t>(experts));
    std::geometric_distribution<int> pick(2.0 / experts);
    for (int r = 0; r < rows; ++r) ++counts[static_cast<std::size_t>(pick(random_) % experts)];
    std::vector<ExpertRows> groups;
    std::int64_t first = 0;
    for (std::size_t e = 0; e < counts.size(); ++e) {
      if (counts[e] > 0) groups.push_back({&weights[e], first, counts[e]});
      first += counts[e];
    }
    const Array x = array(rows, hidden);
    const Array y = array(rows, hidden);
    const Timing t = time_in_turn({[&] { device.experts(x.tensor, groups, y.tensor); }}, 0.5)[0];
    const bool narrow = &device == bf16_.get();
    const double rate = 6.0 * rows * hidden * width / t.median / 1e9;
    const double peak = narrow && peak_bf16() > 0 ? peak_bf16() : peak_f32();
    std::printf("%s %4d x %4d x %2d, %4d rows: %9.1f us (%.1f)  %6.1f GFLOP/s  %3.0f %% of peak\n",
                narrow ? "bf16" : "f32 ", hidden, width, experts, rows, t.median * 1e6, t.upper * 1e6, rate,
                rate / peak * 100);
  }

  std::mt19937 random_{1};
  std::unique_ptr<Device> f32_;
  std::unique_ptr<Device> bf16_;
};

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  coterie::Bench bench;
  const std::map<std::string, std::function<void()>> parts = {{"products", [&] { bench.products(); }},
                                                              {"attention", [&] { bench.attention(); }},
                                                              {"latent", [&] { bench.latent(); }},
                                                              {"experts", [&] { bench.experts(); }},
                                                              {"rows", [&] { bench.rows(); }}};
  for (int i = 1; i < argc; ++i) {
    if (!parts.contains(argv[i])) {
      std::fprintf(stderr, "usage: kernels_bench [products|attention|latent|experts|rows]...\n");
      return 2;
    }
    parts.at(argv[i])();
  }
  if (argc == 1) {
    for (const auto& [name, part] : parts) part();
  }
  return 0;
}
