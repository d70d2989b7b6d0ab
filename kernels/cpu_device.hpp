// The CPU as a device. Activations are f32; one file for each phase implements these members.
#pragma once

#include "kernels/cpu_matrix.hpp"
#include "kernels/device.hpp"
#include "kernels/expert_order.hpp"
#include "kernels/require.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace coterie {

/// Not for several threads at a time: calls share scratch memory, which grows to the largest call and stays.
class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const DeviceOptions& options);

  [[nodiscard]] std::string name() const override;
  [[nodiscard]] DType activation_type() const noexcept override { return DType::f32; }
  using Device::allocate;
  [[nodiscard]] DeviceMemory allocate(std::size_t bytes) override;
  void upload(std::span<const float> host, const Tensor& out) override;
  void download(const Tensor& in, std::span<float> host) override;

  [[nodiscard]] std::unique_ptr<PackedMatrix> pack(const WeightSource& source) override;
  [[nodiscard]] std::unique_ptr<PackedMatrix> adopt(const PackedForm& form, std::span<const std::byte> bytes) override;
  void linear(const Tensor& in, const PackedMatrix& weight, const Tensor& out, bool accumulate) override;

  void gather(const Tensor& table, std::span<const std::int32_t> rows, const Tensor& out) override;
  void combine(const Tensor& in, std::span<const std::int64_t> offsets, std::span<const Contribution> contributions,
               const Tensor& out, bool accumulate) override;
  void sum_rows(const RowSums& sums, std::int64_t cols, bool accumulate) override;
  void rms_norm(const Tensor& in, const Tensor& weight, float epsilon, const Tensor& out) override;
  void layer_norm(const Tensor& in, const Tensor& weight, const Tensor& bias, float epsilon,
                  const Tensor& out) override;
  void add_bias(const Tensor& x, const Tensor& bias) override;
  void add(const Tensor& in, float factor, const Tensor& out) override;
  void scale(const Tensor& x, float factor) override;
  void clamp(const Tensor& x, float limit) override;
  void rotary(const Tensor& x, int head_dim, const Rotary& rotary, std::span<const std::int64_t> positions) override;

  void write_kv(const Tensor& k, const Tensor& v, std::span<const SequenceRows> sequences,
                const KvCache& cache) override;
  void attention(const Tensor& q, const KvCache& cache, std::span<const SequenceRows> sequences,
                 const AttentionShape& shape, const Tensor& out, const Tensor& sinks) override;

  void latent_attention(const Tensor& q_latent, const Tensor& q_rope, const KvCache& cache,
                        std::span<const SequenceRows> sequences, const LatentShape& shape, const Tensor& out) override;
  void linear_by_head(const Tensor& in, std::span<const std::unique_ptr<PackedMatrix>> weights,
                      const Tensor& out) override;

  using Device::route;
  [[nodiscard]] Routing route(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                              const RouterBiases& biases) override;
  [[nodiscard]] RowGroups group(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                                const RouterBiases& biases) override;
  void add_experts(const Tensor& in, const RowGroups& groups, const ExpertSet& experts, float factor,
                   const Tensor& x) override;
  [[nodiscard]] std::vector<Sampled> sample(const Tensor& logits, std::span<const RowSampling> rows) override;
  void gate(const Tensor& x, const PackedMatrix& weight, float factor, const Tensor& in, const Tensor& out) override;
  void experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out) override;
  void experts_backward(const ExpertsBackward& rows, std::span<const ExpertRows> groups,
                        std::span<const ExpertGradients> gradients) override;

 private:
  /// Memory that a call needs for itself.
  class Scratch {
   public:
    template <class T>
    [[nodiscard]] T* get(std::int64_t count) {
      return reinterpret_cast<T*>(reserve(static_cast<std::size_t>(count) * sizeof(T)));
    }

   private:
    std::byte* reserve(std::size_t bytes);
    DeviceMemory memory_;
    std::size_t size_ = 0;
  };

  /// Sine and cosine (positions, frequencies) as the last call needed them: all layers of a step need the same.
  struct RotaryTable {
    Rotary rotary;
    std::vector<std::int64_t> positions;
    std::vector<float> cosine;
    std::vector<float> sine;
  };
  void tabulate(const Rotary& rotary, std::span<const std::int64_t> positions);

  /// What one thread needs to put a few rows through an expert, or through latent attention.
  struct ExpertScratch {
    Scratch gate_up;
    Scratch hidden;
    Scratch converted;
    Scratch queries;
  };
  /// On up to `threads` threads.
  static void expert(const ExpertRows& group, const Tensor& in, const Tensor& out, ExpertScratch& scratch, int threads);

  /// What the gradients of a few rows of one expert need.
  struct BackwardScratch {
    Scratch gate_up;  ///< (rows, 2 * intermediate): products, then their gradients
    Scratch hidden;   ///< (rows, intermediate): gradients, then weighted numbers
    Scratch weights;  ///< transposed
    Scratch columns;  ///< rows, transposed
    Scratch panels;   ///< rows, packed
  };
  void expert_backward(const ExpertsBackward& rows, const ExpertRows& group, const ExpertGradients& gradients);
  [[nodiscard]] CpuMatrix transposed(const PackedMatrix& weight, int threads);
  [[nodiscard]] CpuMatrix packed_columns(const Tensor& in, int threads);
  void add_products(const Tensor& left, const Tensor& right, const Tensor& out, int threads);

  /// How many threads that many multiplications or the like are worth: waking one costs microseconds.
  [[nodiscard]] int threads_for(std::int64_t operations) const;

  DeviceOptions options_;
  Scratch converted_;  ///< a product's input as bf16
  Scratch logits_;
  Routing grouped_;  ///< what group() gave last
  ExpertOrder order_;
  std::vector<std::int32_t> grouped_rows_;
  Scratch pairs_;
  std::vector<ExpertScratch> expert_scratch_;  ///< of each thread
  std::vector<ExpertRows> expert_tasks_;
  BackwardScratch backward_;
  RotaryTable table_;
};

/// out = in * weight^T, or out += with accumulate; shapes are as they should be. `scratch`: for in.rows rows of the
/// weight's depth() as bf16, unused with f32 weights.
void multiply_rows(const Tensor& in, const CpuMatrix& weight, const Tensor& out, bool accumulate,
                   std::uint16_t* scratch, int threads);

/// write_kv for rows that are key and value in one; they lie in a block one after the other.
void write_latent(const Tensor& rows, std::span<const SequenceRows> sequences, const KvCache& cache);

/// f32, of these rows and columns.
inline void require_shape(const Tensor& tensor, std::int64_t rows, std::int64_t cols, const char* what) {
  require_shape(tensor, DType::f32, rows, cols, what);
}

/// The numbers of row r.
[[nodiscard]] inline float* f32_row(const Tensor& tensor, std::int64_t r) noexcept {
  return reinterpret_cast<float*>(tensor.data) + r * tensor.stride;
}

/// body(i) for i in [0, count), on up to `threads` threads. `body` must not throw.
template <class Body>
void parallel_for(int threads, std::int64_t count, const Body& body) {
  if (threads == 1 || count < 2) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (std::int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace coterie
