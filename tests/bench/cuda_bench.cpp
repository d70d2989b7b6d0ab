// Times a GPU's operations in bf16, with cold caches, from the call to its end as the host sees it. Each call by
// itself: grouped experts by each kernel that there is beside cuBLAS (a loop of calls, and grouped calls) and the rate
// of one dense product, sampling, decode steps with and without CUDA graphs. Several calls, each with memory of its
// own, as one graph, as steps ask for them: rows and attention beside a copy inside the device's memory, the router.
// usage: cuda_bench [largest]; largest: GiB of experts' weights at a time (23), which it keeps twice
#include "kernels/cuda_devices.hpp"
#include "tests/bench/cublas_loop.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace coterie {
namespace {

using Call = std::function<void()>;

struct Array {
  DeviceMemory memory;
  Tensor tensor;
};

struct Model {
  const char* name;
  std::int64_t hidden, intermediate;
};

constexpr DeviceOptions kInBf16{DType::bf16, 1, DType::bf16};

class CudaBench {
 public:
  CudaBench() : device_(make_cuda_device(kInBf16, 0, ExpertKernels::mma)) {
    std::mt19937 random(1);
    std::uniform_int_distribution<std::uint16_t> fraction(0, 127);
    for (std::uint16_t& x : halves_) {  // of size 1/128 to 1/64
      x = static_cast<std::uint16_t>((random() % 2 << 15) | (120U << 7) | fraction(random));
    }
    const std::size_t bytes = std::size_t{1} << 30;
    const DeviceMemory from = device_->allocate(bytes), to = device_->allocate(bytes);
    copy_ = 2.0 * static_cast<double>(bytes) / median([&] { return peer_.copy_seconds(to.get(), from.get(), bytes); });
    constexpr std::int64_t size = 8192;
    const Array a = array(size, size), b = array(size, size), out = array(size, size);
    dense_ = 2.0 * size * size * size / median([&] { return peer_.dense_seconds(a.tensor, b.tensor, out.tensor); });
    std::printf(
        "%s; a copy in its memory reads and writes %.0f GB/s together; cuBLAS multiplies %ld^3 at %.0f TFLOP/s\n",
        device_->name().c_str(), 1e-9 * copy_, static_cast<long>(size), 1e-12 * dense_);
    start_anew();
    if (!wgmma_) std::printf("without wgmma: %s\n", without_wgmma_.c_str());
  }

  /// Devices keep what their largest calls took: new ones, before others need the memory.
  void start_anew() {
    wgmma_.reset();
    device_.reset();
    device_ = make_cuda_device(kInBf16, 0, ExpertKernels::mma);
    try {
      wgmma_ = make_cuda_device(kInBf16, 0, ExpertKernels::wgmma);
    } catch (const std::runtime_error& e) {
      without_wgmma_ = e.what();
    }
  }

  /// `loads`: rows of each expert on average.
  void experts(const Model& model, int count, std::span<const std::int64_t> loads) {
    const std::vector<ExpertWeights> weights = copies(model, count, *device_);
    const std::vector<ExpertWeights> slabs = wgmma_ ? copies(model, count, *wgmma_) : std::vector<ExpertWeights>{};
    for (const std::int64_t rows_each : loads) {
      for (const bool skewed : {false, true}) experts(model, weights, slabs, rows_each, skewed);
    }
    memory_.clear();
  }

  void rows(std::int64_t tokens, std::int64_t hidden) {
    const std::vector<Array> in = arrays(tokens, hidden), out = arrays(tokens, hidden);
    std::vector<std::int32_t> order(static_cast<std::size_t>(tokens));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::shuffle(order, std::mt19937(2));
    std::vector<std::int64_t> offsets{0};
    std::vector<Contribution> contributions;
    for (const std::int32_t row : order) {
      contributions.push_back({row, 0.5F});
      contributions.push_back({order[static_cast<std::size_t>(tokens - 1 - row)], 0.5F});
      offsets.push_back(static_cast<std::int64_t>(contributions.size()));
    }
    const double gather = time_in_graph([&](auto i) { device_->gather(in[i].tensor, order, out[i].tensor); });
    const double combine =
        time_in_graph([&](auto i) { device_->combine(in[i].tensor, offsets, contributions, out[i].tensor); });
    const double row_bytes = 2.0 * static_cast<double>(tokens * hidden);
    std::printf("%6ld x %5ld: gather %8.1f us, %3.0f %% of a copy; combine of two %8.1f us, %3.0f %%\n",
                static_cast<long>(tokens), static_cast<long>(hidden), 1e6 * gather, 200 * row_bytes / gather / copy_,
                1e6 * combine, 300 * row_bytes / combine / copy_);
  }

  void decode(int heads, int kv_heads, int head_dim, int batch, int context) {
    constexpr int tokens = 16;
    const std::int64_t blocks = (context + tokens - 1) / tokens, width = std::int64_t{kv_heads} * head_dim;
    const std::vector<Array> keys = arrays(blocks * batch, tokens * width);
    const std::vector<Array> values = arrays(blocks * batch, tokens * width);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(blocks * batch));
    std::iota(ids.begin(), ids.end(), 0);
    std::ranges::shuffle(ids, std::mt19937(3));
    std::vector<SequenceRows> sequences;
    for (int s = 0; s < batch; ++s) {
      sequences.push_back(
          {s, 1, context - 1,
           std::span(ids).subspan(static_cast<std::size_t>(s * blocks), static_cast<std::size_t>(blocks))});
    }
    const Array q = array(batch, std::int64_t{heads} * head_dim), out = array(batch, std::int64_t{heads} * head_dim);
    const AttentionShape shape{heads, kv_heads, head_dim, 0.1F, 0};
    const double time = time_in_graph([&](auto i) {
      device_->attention(q.tensor, {keys[i].tensor.data, values[i].tensor.data, tokens, head_dim}, sequences, shape,
                         out.tensor);
    });
    const double bytes = 4.0 * static_cast<double>(width) * context * batch;
    std::printf("%3d/%d heads of %d, %d sequences at %d: %8.1f us, %5.0f GB/s, %3.0f %% of a copy\n", heads, kv_heads,
                head_dim, batch, context, 1e6 * time, 1e-9 * bytes / time, 100 * bytes / time / copy_);
  }

  void router(std::int64_t tokens, int experts, int top_k, std::int64_t hidden) {
    const std::vector<Array> in = arrays(tokens, hidden);
    const auto weight = matrix(experts, hidden);
    const RouterOptions options{.top_k = top_k};
    const double group = time_in_graph([&](auto i) { (void)device_->group(in[i].tensor, *weight, options, {}); });
    const double route = time_in_turn({[&] { (void)device_->route(in[0].tensor, *weight, options); }}).front();
    std::printf(
        "%5ld tokens of %4ld, %d of %d experts: %8.1f us with the permutation, %8.1f us with the way to the host\n",
        static_cast<long>(tokens), static_cast<long>(hidden), top_k, experts, 1e6 * group, 1e6 * route);
  }

  void sampling(std::int64_t rows, std::int64_t vocabulary) {
    const Array logits = array(rows, vocabulary);
    const auto all_as = [&](RowSampling one) {
      std::vector<RowSampling> all(static_cast<std::size_t>(rows), one);
      for (std::size_t r = 0; r < all.size(); ++r) all[r].row = static_cast<std::int32_t>(r);
      return [&device = *device_, &logits, all] { (void)device.sample(logits.tensor, all); };
    };
    const auto times = time_in_turn({all_as({.temperature = 0}), all_as({.temperature = 0.7F, .share = 0.5}),
                                     all_as({.temperature = 0.7F, .top_k = 50, .share = 0.5}),
                                     all_as({.temperature = 0.7F, .top_p = 0.95F, .share = 0.5})});
    std::printf("%3ld rows of %6ld: greedy %8.1f us, drawn %8.1f us, from top 50 %8.1f us, from top 95 %% %8.1f us\n",
                static_cast<long>(rows), static_cast<long>(vocabulary), 1e6 * times[0], 1e6 * times[1], 1e6 * times[2],
                1e6 * times[3]);
  }

  /// Layers as those of a decode step, each with memory of its own, given to the GPU one by one and as a graph.
  void step(const Model& model, int layers, int count, int top_k, int batch, int context) {
    constexpr int heads = 32, kv_heads = 8, head_dim = 128, tokens = 16;
    constexpr std::int64_t width = std::int64_t{kv_heads} * head_dim, all = (heads + 2 * kv_heads) * head_dim;
    const std::int64_t blocks = (context + tokens - 1) / tokens;
    struct Layer {
      std::unique_ptr<PackedMatrix> qkv, out, router;
      std::vector<ExpertWeights> experts;
      std::unique_ptr<ExpertSet> set;
      Array keys, values;
    };
    Device& device = wgmma_ ? *wgmma_ : *device_;
    std::vector<Layer> all_layers(static_cast<std::size_t>(layers));
    for (Layer& layer : all_layers) {
      layer.qkv = matrix(all, model.hidden, device, WeightUse::linear);
      layer.out = matrix(model.hidden, heads * head_dim, device, WeightUse::linear);
      layer.router = matrix(count, model.hidden, device, WeightUse::linear);
      layer.experts = copies(model, count, device);
      std::vector<const ExpertWeights*> pointers;
      for (const ExpertWeights& expert : layer.experts) pointers.push_back(&expert);
      layer.set = device.expert_set(pointers);
      layer.keys = array(blocks * batch, tokens * width);
      layer.values = array(blocks * batch, tokens * width);
    }
    std::vector<std::int32_t> ids(static_cast<std::size_t>(blocks * batch));
    std::iota(ids.begin(), ids.end(), 0);
    std::vector<SequenceRows> sequences;
    for (int s = 0; s < batch; ++s) {
      sequences.push_back(
          {s, 1, context - 1,
           std::span(ids).subspan(static_cast<std::size_t>(s * blocks), static_cast<std::size_t>(blocks))});
    }
    const std::vector<std::int64_t> positions(static_cast<std::size_t>(batch), context - 1);
    const Rotary rotary{std::vector<float>(head_dim / 2, 0.5F)};
    const Array norm = array(1, model.hidden), x = array(batch, model.hidden), normed = array(batch, model.hidden);
    const Array qkv = array(batch, all), out = array(batch, heads * head_dim);
    const Tensor q = qkv.tensor.col_range(0, heads * head_dim);
    const Tensor k = qkv.tensor.col_range(heads * head_dim, width);
    const Tensor v = qkv.tensor.col_range(heads * head_dim + width, width);
    const auto body = [&] {
      for (const Layer& layer : all_layers) {
        const KvCache cache{layer.keys.tensor.data, layer.values.tensor.data, tokens, head_dim};
        device.rms_norm(x.tensor, norm.tensor, 1e-6F, normed.tensor);
        device.linear(normed.tensor, *layer.qkv, qkv.tensor);
        device.rotary(q, head_dim, rotary, positions);
        device.rotary(k, head_dim, rotary, positions);
        device.write_kv(k, v, sequences, cache);
        device.attention(q, cache, sequences, {heads, kv_heads, head_dim, 0.1F, 0}, out.tensor);
        device.linear(out.tensor, *layer.out, x.tensor, true);
        device.rms_norm(x.tensor, norm.tensor, 1e-6F, normed.tensor);
        const RowGroups groups = device.group(normed.tensor, *layer.router, {.top_k = top_k}, {});
        device.add_experts(normed.tensor, groups, *layer.set, 1, x.tensor);
      }
    };
    const auto times = time_in_turn({[&] {
                                       body();
                                       device.wait();
                                     },
                                     [&] {
                                       device.repeat(1, body);
                                       device.wait();
                                     }});
    const double bytes = 2.0 * layers *
                         (static_cast<double>(model.hidden) *
                              static_cast<double>(all + heads * head_dim + 3 * model.intermediate * count) +
                          2.0 * static_cast<double>(width) * context * batch);
    std::printf(
        "%d layers of %s, %d sequences at %d: %8.1f us one by one, %8.1f us as a graph: %5.0f GB/s, %3.0f %% of a "
        "copy\n",
        layers, model.name, batch, context, 1e6 * times[0], 1e6 * times[1], 1e-9 * bytes / times[1],
        100 * bytes / times[1] / copy_);
    memory_.clear();
  }

 private:
  void experts(const Model& model, const std::vector<ExpertWeights>& weights, const std::vector<ExpertWeights>& slabs,
               std::int64_t rows_each, bool skewed) {
    const auto count = static_cast<int>(weights.size());
    const std::int64_t rows = rows_each * count;
    // Skewed: half of all rows go to the first expert.
    std::vector<ExpertRows> groups;
    std::int64_t first = 0;
    for (int e = 0; e < count; ++e) {
      std::int64_t of = rows_each;
      if (skewed)
        of = e == 0 ? rows / 2 : (rows - rows / 2) * e / (count - 1) - (rows - rows / 2) * (e - 1) / (count - 1);
      if (of > 0) groups.push_back({&weights[static_cast<std::size_t>(e)], first, of});
      first += of;
    }
    std::vector<ExpertRows> in_slabs = groups;
    if (wgmma_) {
      for (ExpertRows& group : in_slabs) group.expert = &slabs[static_cast<std::size_t>(group.expert - weights.data())];
    }
    const Array in = array(rows, model.hidden), out = array(rows, model.hidden);
    const Array between = array(rows, 2 * model.intermediate);
    const auto by_device = [&](Device& device, std::span<const ExpertRows> of) {
      device.experts(in.tensor, of, out.tensor);
      device.wait();
    };
    std::vector<Call> calls{[&] { by_device(*device_, groups); },
                            [&] {
                              peer_.experts(in.tensor, groups, between.tensor, out.tensor);
                              peer_.wait();
                            }};
    const bool has_grouped = peer_.grouped_experts(in.tensor, groups, between.tensor, out.tensor);
    peer_.wait();
    if (has_grouped) {
      calls.emplace_back([&] {
        (void)peer_.grouped_experts(in.tensor, groups, between.tensor, out.tensor);
        peer_.wait();
      });
    }
    if (wgmma_) calls.emplace_back([&] { by_device(*wgmma_, in_slabs); });
    const std::vector<double> times = time_in_turn(calls);
    const double best_peer = has_grouped ? std::min(times[1], times[2]) : times[1];
    const double best = wgmma_ ? std::min(times[0], times.back()) : times[0];
    const double numbers = 3.0 * static_cast<double>(model.hidden * model.intermediate);
    const double rate = 2 * numbers * static_cast<double>(rows) / best;
    const double bytes = 2 * numbers * static_cast<double>(groups.size()) / best;
    const auto time = [](double seconds) { return seconds > 0 ? 1e6 * seconds : NAN; };
    std::printf("%-12s %4d %6ld %-8s %9.1f %9.1f %9.1f %9.1f %8.1f %6.0f %8.0f %6.0f %6.2f\n", model.name, count,
                static_cast<long>(rows_each), skewed ? "skewed" : "uniform", time(wgmma_ ? times.back() : 0),
                time(times[0]), time(times[1]), time(has_grouped ? times[2] : 0), 1e-12 * rate, 100 * rate / dense_,
                1e-9 * bytes, 100 * bytes / copy_, best_peer / best);
    std::fflush(stdout);
  }

  /// So many experts with the same numbers, each in memory of its own.
  std::vector<ExpertWeights> copies(const Model& model, int count, Device& device) {
    const auto gate_up = matrix(2 * model.intermediate, model.hidden, device, WeightUse::expert_gate_up);
    const auto down = matrix(model.hidden, model.intermediate, device, WeightUse::expert_down);
    const auto copy = [&](const PackedMatrix& matrix) {
      const std::span<const std::byte> bytes = matrix.bytes();
      DeviceMemory& memory = memory_.emplace_back(device.allocate(bytes.size()));
      (void)peer_.copy_seconds(memory.get(), bytes.data(), bytes.size());
      return device.adopt(matrix.form(), {memory.get(), bytes.size()});
    };
    std::vector<ExpertWeights> experts(static_cast<std::size_t>(count));
    for (ExpertWeights& expert : experts) {
      expert.gate_up = copy(*gate_up);
      expert.down = copy(*down);
    }
    return experts;
  }

  template <class Seconds>
  static double median(const Seconds& seconds) {
    std::vector<double> times;
    for (int i = -2; i < 9; ++i) {
      const double time = seconds();
      if (i >= 0) times.push_back(time);
    }
    std::ranges::sort(times);
    return times[times.size() / 2];
  }

  /// Median seconds of each, in turn: 11 times, fewer of what takes long.
  std::vector<double> time_in_turn(const std::vector<Call>& calls) {
    constexpr int kTimes = 11, kLeast = 3;
    constexpr double kEnough = 1;  // seconds
    std::vector<std::vector<double>> times(calls.size());
    double all = 0;
    for (int i = -2; i < kTimes && (i < kLeast || all < kEnough); ++i) {
      for (std::size_t c = 0; c < calls.size(); ++c) {
        peer_.forget();
        const auto start = std::chrono::steady_clock::now();
        calls[c]();
        device_->wait();
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        all += taken.count();
        if (i >= 0) times[c].push_back(taken.count());
      }
    }
    std::vector<double> medians;
    for (auto& of : times) {
      std::ranges::sort(of);
      medians.push_back(of[of.size() / 2]);
    }
    return medians;
  }

  /// Median seconds of one of several calls, call(0) and so on, that the device gets as one graph.
  double time_in_graph(const std::function<void(std::size_t)>& call) {
    const std::uint64_t key = ++graphs_;
    return time_in_turn({[&] {
             device_->repeat(key, [&] {
               for (std::size_t i = 0; i < kInGraph; ++i) call(i);
             });
           }}).front() /
           static_cast<double>(kInGraph);
  }

  std::unique_ptr<PackedMatrix> matrix(std::int64_t rows, std::int64_t cols) {
    return matrix(rows, cols, *device_, WeightUse::linear);
  }
  std::unique_ptr<PackedMatrix> matrix(std::int64_t rows, std::int64_t cols, Device& device, WeightUse use) {
    WeightSource source;
    source.rows = rows;
    source.cols = cols;
    source.fits_bf16 = true;
    source.use = use;
    source.read_bf16 = [&](std::int64_t first, std::int64_t count, std::uint16_t* out) {
      for (std::int64_t left = count * cols; left > 0; left -= static_cast<std::int64_t>(halves_.size())) {
        const auto some = static_cast<std::size_t>(std::min<std::int64_t>(left, std::ssize(halves_)));
        std::memcpy(out + (count * cols - left), halves_.data(), some * sizeof halves_[0]);
      }
      (void)first;
    };
    return device.pack(source);
  }

  /// For the calls of a graph.
  std::vector<Array> arrays(std::int64_t rows, std::int64_t cols) {
    std::vector<Array> all;
    for (std::size_t i = 0; i < kInGraph; ++i) all.push_back(array(rows, cols));
    return all;
  }

  Array array(std::int64_t rows, std::int64_t cols) {
    Array a;
    a.tensor = device_->allocate(rows, cols, a.memory);
    constexpr std::int64_t at_a_time = 256;  // rows, which are repeated
    std::vector<float> numbers(static_cast<std::size_t>(std::min(rows, at_a_time) * cols));
    std::mt19937 random(4);
    std::uniform_real_distribution<float> number(-1, 1);
    for (float& x : numbers) x = number(random);
    for (std::int64_t r = 0; r < rows; r += at_a_time) {
      const std::int64_t some = std::min(at_a_time, rows - r);
      device_->upload(std::span(numbers).first(static_cast<std::size_t>(some * cols)), a.tensor.row_range(r, some));
    }
    return a;
  }

  std::unique_ptr<Device> device_;  ///< all its weights row-major
  std::unique_ptr<Device> wgmma_;   ///< or none
  std::string without_wgmma_;       ///< why
  CublasLoop peer_;
  std::vector<DeviceMemory> memory_;  ///< of experts
  std::vector<std::uint16_t> halves_ = std::vector<std::uint16_t>(std::size_t{1} << 20);
  static constexpr std::size_t kInGraph = 8;  ///< calls
  std::uint64_t graphs_ = 0;                  ///< so far
  double copy_ = 0;                           ///< bytes read and written a second
  double dense_ = 0;                          ///< operations a second
};

constexpr Model kModels[] = {
    {"mixtral", 4096, 14336}, {"gpt-oss", 2880, 2880}, {"deepseek-v3", 7168, 2048}, {"qwen3-30b", 2048, 768}};

int run(double largest) {
  if (cuda_devices().empty()) {
    std::printf("no GPU\n");
    return 77;
  }
  CudaBench bench;
  std::printf(
      "\nexperts: us of each; the best of our own in TFLOP/s, %% of dense, GB/s of weights, %% of a copy, and how many "
      "times as fast as the best of cuBLAS\n%-12s %4s %6s %-8s %9s %9s %9s %9s %8s %6s %8s %6s %6s\n",
      "shapes of", "E", "rows", "load", "wgmma", "mma", "cuBLAS", "grouped", "TFLOP/s", "%", "GB/s", "%", "times");
  for (const Model& model : kModels) {
    bench.start_anew();
    for (const int count : {8, 32, 128, 256}) {
      const double gib = 6.0 * static_cast<double>(model.hidden * model.intermediate) * count / (1U << 30);
      if (gib > largest) continue;
      std::vector<std::int64_t> loads{1, 16, 128, 512, 4096};
      std::erase_if(loads, [&](std::int64_t rows) { return rows * count > (1 << 17); });
      bench.experts(model, count, loads);
    }
  }
  bench.start_anew();
  std::printf("\nrows\n");
  for (const std::int64_t tokens : {128, 4096}) {
    for (const std::int64_t hidden : {2048, 7168}) bench.rows(tokens, hidden);
  }
  std::printf("\ndecode attention\n");
  bench.decode(32, 8, 128, 64, 4096);
  bench.decode(64, 8, 64, 64, 4096);
  bench.decode(32, 8, 128, 1, 4096);
  std::printf("\nrouter, its product included (of 64 numbers: next to nothing)\n");
  for (const std::int64_t tokens : {64, 4096}) {
    for (const std::int64_t hidden : {64, 2048, 7168}) bench.router(tokens, 256, 8, hidden);
  }
  std::printf("\nsampling, the way to the host included\n");
  for (const std::int64_t batch : {1, 64, 256}) bench.sampling(batch, 128'256);
  std::printf("\na decode step but for its head, every expert with rows\n");
  bench.step(kModels[0], 4, 8, 2, 64, 1024);
  bench.step(kModels[3], 4, 128, 8, 256, 1024);
  return 0;
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  try {
    return coterie::run(argc > 1 ? std::atof(argv[1]) : 23);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cuda_bench: %s\n", e.what());
    return 1;
  }
}
