// A GPU as a device, through CUDA. One file for each phase implements these members. Kernels of one device run one
// after the other on its stream; a call returns before they end unless it returns numbers to the host. What the host
// gives them travels through pinned memory, so that nothing waits for a copy.
#pragma once

#include "kernels/cuda/cuda_arena.hpp"
#include "kernels/cuda/gpu.hpp"
#include "kernels/cuda/measured_choice.hpp"
#include "kernels/cuda_devices.hpp"

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace coterie {

/// The order of a packed weight's numbers.
enum class CudaLayout : std::int64_t {
  f32_rows,  ///< row-major (out_features, in_features), each row filled up with zeros to a multiple of 8 numbers
  bf16_rows,
  slabs,  ///< of an expert, bf16 (expert_slabs.hpp)
  gated_slabs,
};

class CudaMatrix final : public PackedMatrix {
 public:
  CudaMatrix(std::int64_t out_features, std::int64_t in_features, CudaLayout layout, DeviceMemory memory)
      : out_features_(out_features),
        in_features_(in_features),
        layout_(layout),
        memory_(std::move(memory)),
        data_(memory_.get()) {}
  /// A view of what another one packed. Throws std::invalid_argument when the bytes don't fit the form.
  CudaMatrix(const PackedForm& form, std::span<const std::byte> bytes);

  [[nodiscard]] std::int64_t out_features() const noexcept override { return out_features_; }
  [[nodiscard]] std::int64_t in_features() const noexcept override { return in_features_; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept override;
  [[nodiscard]] PackedForm form() const noexcept override {
    return {out_features_, in_features_, static_cast<std::int64_t>(layout_)};
  }

  [[nodiscard]] CudaLayout layout() const noexcept { return layout_; }
  [[nodiscard]] bool in_slabs() const noexcept {
    return layout_ == CudaLayout::slabs || layout_ == CudaLayout::gated_slabs;
  }
  [[nodiscard]] static std::int64_t stride_of(std::int64_t in_features) { return (in_features + 7) / 8 * 8; }
  /// Of rows.
  [[nodiscard]] std::int64_t stride() const noexcept { return stride_of(in_features_); }

 private:
  std::int64_t out_features_;
  std::int64_t in_features_;
  CudaLayout layout_;
  DeviceMemory memory_;  ///< none of a view
  const std::byte* data_;
};

/// Throws std::invalid_argument if `matrix` was packed by another kind of device.
[[nodiscard]] const CudaMatrix& as_cuda_matrix(const PackedMatrix& matrix);

/// An expert as kernels see it that get their rows from RowGroups.
struct ExpertPointers {
  const std::byte* gate_up;
  const std::byte* down;
  const std::byte* gate_up_bias;  ///< or none
  const std::byte* down_bias;
  Gating gating;
};

class CudaExpertSet final : public ExpertSet {
 public:
  CudaExpertSet(std::vector<const ExpertWeights*> experts, DeviceMemory table)
      : ExpertSet(std::move(experts)), table_(std::move(table)) {}
  /// (experts)
  [[nodiscard]] const ExpertPointers* table() const noexcept {
    return reinterpret_cast<const ExpertPointers*>(table_.get());
  }
  [[nodiscard]] int count() const noexcept { return static_cast<int>(experts().size()); }
  [[nodiscard]] const ExpertWeights& any() const noexcept { return *experts().front(); }

 private:
  DeviceMemory table_;
};

/// One product out = in * weight^T of a grouped call; several may read the same rows.
struct Product {
  Tensor in;
  const CudaMatrix* weight;
  Tensor out;
};

class CublasProducts;

/// Not for several host threads at a time.
class CudaDevice final : public Device {
 public:
  /// On GPU `index`. Activations are f32 when weights are, unless `activations` says otherwise.
  CudaDevice(const DeviceOptions& options, int index, ExpertKernels experts);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  [[nodiscard]] std::string name() const override;
  [[nodiscard]] DType activation_type() const noexcept override { return options_.activations; }
  [[nodiscard]] bool is_the_host() const noexcept override { return false; }
  using Device::allocate;
  [[nodiscard]] DeviceMemory allocate(std::size_t bytes) override;
  [[nodiscard]] DeviceMemory allocate_shared(std::size_t bytes) override;
  void reserve(std::size_t bytes, std::size_t shared) override;
  [[nodiscard]] std::optional<std::size_t> free_memory() const override;
  void wait() override;
  void while_waiting(const std::function<void()>& look) override { look_ = look; }
  [[nodiscard]] std::uint64_t stretch() const noexcept override { return stretch_; }
  [[nodiscard]] bool is_done(std::uint64_t stretch) override;
  void precede(cudaStream_t stream) override;
  void follow(cudaStream_t stream) override;
  void copy(std::span<const std::byte> from, std::span<std::byte> to) override;
  void repeat(std::uint64_t key, const std::function<void()>& body) override;
  void start() override { stream_.end_stretch(); }
  void upload(std::span<const float> host, const Tensor& out) override;
  void download(const Tensor& in, std::span<float> host) override;

  [[nodiscard]] std::unique_ptr<PackedMatrix> pack(const WeightSource& source) override;
  [[nodiscard]] std::unique_ptr<PackedMatrix> adopt(const PackedForm& form, std::span<const std::byte> bytes) override;
  void linear(const Tensor& in, const PackedMatrix& weight, const Tensor& out, bool accumulate) override;

  void gather(const Tensor& table, std::span<const std::int32_t> rows, const Tensor& out) override;
  void combine(const Tensor& in, std::span<const std::int64_t> offsets, std::span<const Contribution> contributions,
               const Tensor& out, bool accumulate) override;
  void sum_rows(const RowSums& sums, std::int64_t cols, bool accumulate) override;
  [[nodiscard]] std::int64_t room_for(std::int64_t rows) const override;
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
  [[nodiscard]] std::unique_ptr<ExpertSet> expert_set(std::vector<const ExpertWeights*> experts) override;
  void add_experts(const Tensor& in, const RowGroups& groups, const ExpertSet& experts, float factor,
                   const Tensor& x) override;
  [[nodiscard]] std::vector<Sampled> sample(const Tensor& logits, std::span<const RowSampling> rows) override;
  void gate(const Tensor& x, const PackedMatrix& weight, float factor, const Tensor& in, const Tensor& out) override;
  void experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out) override;
  void prepare_experts(std::span<const ExpertWeights* const> experts, std::int64_t rows) override;
  void experts_backward(const ExpertsBackward& rows, std::span<const ExpertRows> groups,
                        std::span<const ExpertGradients> gradients) override;

 private:
  /// Device memory that a call needs for itself: grows to the largest call and stays. The stream orders who uses it.
  class Buffer {
   public:
    explicit Buffer(CudaDevice& device) : device_(device) {}
    template <class T>
    [[nodiscard]] T* get(std::int64_t count) {
      return reinterpret_cast<T*>(reserve(static_cast<std::size_t>(count) * sizeof(T)));
    }
    /// The host's numbers on the device.
    template <class T>
    [[nodiscard]] T* put(std::span<const T> host) {
      return put(host, std::ssize(host));
    }
    /// Followed by zeros: `count` numbers in all.
    template <class T>
    [[nodiscard]] T* put(std::span<const T> host, std::int64_t count) {
      T* to = get<T>(count);
      device_.send(host.data(), host.size_bytes(), to, static_cast<std::size_t>(count) * sizeof(T));
      return to;
    }
    /// The same for what kernels only read: it isn't sent again where it was the last since a body began that may
    /// repeat, as when all layers of a step take the same.
    template <class T>
    [[nodiscard]] const T* keep(std::span<const T> host) {
      const auto bytes = std::as_bytes(host);
      if (holds(bytes)) return reinterpret_cast<const T*>(memory_.get());
      const T* to = put(host);
      kept_.assign(bytes.begin(), bytes.end());
      kept_in_ = device_.bodies_;
      return to;
    }

   private:
    std::byte* reserve(std::size_t bytes);
    [[nodiscard]] bool holds(std::span<const std::byte> bytes) const;
    CudaDevice& device_;
    DeviceMemory memory_;
    std::size_t size_ = 0;
    std::vector<std::byte> kept_;  ///< what keep() sent last, or nothing
    std::uint64_t kept_in_ = 0;    ///< of how many bodies that was the last
  };

  struct DestroyEvent {
    void operator()(cudaEvent_t event) const noexcept { (void)cudaEventDestroy(event); }
  };
  using Event = std::unique_ptr<CUevent_st, DestroyEvent>;
  [[nodiscard]] static Event make_event();

  /// How a weight is packed, and so which kernels multiply with it.
  [[nodiscard]] CudaLayout layout_for(WeightUse use) const;
  /// Of weights that lie in rows.
  void experts_in_rows(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out, bool by_cublas);
  void experts_by_wgmma(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out);
  /// The same for rows that the device alone knows: out's rows are the groups', as many as there may be.
  void groups_by_mma(const Tensor& in, const RowGroups& groups, const CudaExpertSet& experts, const Tensor& out);
  /// Which the host learns of.
  void groups_by_cublas(const Tensor& in, const RowGroups& groups, const CudaExpertSet& set, const Tensor& out);
  void groups_by_wgmma(const Tensor& in, const RowGroups& groups, const CudaExpertSet& experts, const Tensor& out);
  struct WgmmaTasks;
  void multiply_by_wgmma(const Tensor& in, const Tensor& hidden, const WgmmaTasks& tasks, const Tensor& out);
  /// out_i = in's row rows[i], for the first *count of them; all in device memory.
  void gather_listed(const Tensor& in, const std::int32_t* rows, const std::int32_t* count, const Tensor& out);
  void require_route(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                     const RouterBiases& biases) const;
  struct Chosen;
  void choose(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options, const RouterBiases& biases,
              const Chosen& to);
  /// Rows that a block of the router takes.
  [[nodiscard]] static int router_tile(std::int64_t rows);
  /// All of them in one launch. With `room`, rows that they have together at most, it is alike for other weights and
  /// other rows of each, of about as many products.
  void multiply(std::span<const Product> products, bool accumulate, std::int64_t room = 0);
  void multiply_by_cublas(std::span<const Product> products);
  /// Copies to the device, followed by zeros where there is more room; `from` is read at once.
  void send(const void* from, std::size_t bytes, void* to, std::size_t room = 0);
  /// Rows of `width` bytes, `pitch` apart.
  struct Bytes2D {
    const void* data;
    std::size_t pitch, width, height;
  };
  /// Copies to pinned memory, dense there and valid until the next fetch, and waits.
  [[nodiscard]] const std::byte* fetch(const Bytes2D& from);
  /// More shared memory than a kernel has without asking.
  template <class... Parameters>
  void allow_shared(void (*kernel)(Parameters...), std::size_t bytes) {
    if (bytes > most_unasked && shared_allowed_.insert(reinterpret_cast<const void*>(kernel)).second) {
      check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes)),
            "a kernel's shared memory");
    }
  }
  static constexpr std::size_t most_unasked = std::size_t{48} << 10;
  struct Attention;
  void attend(const Attention& call, std::span<const SequenceRows> sequences, const KvCache& cache);

  DeviceOptions options_;
  int index_;
  std::shared_ptr<CudaArena> memory_ = std::make_shared<CudaArena>(CudaArena::Kind::device);
  std::shared_ptr<CudaArena> pinned_ = std::make_shared<CudaArena>(CudaArena::Kind::pinned);
  std::shared_ptr<CudaQueue> queue_;  ///< also of whoever frees memory
  CudaQueue& stream_ = *queue_;
  bool wgmma_ = false;                      ///< experts are packed for it
  std::unique_ptr<CublasProducts> cublas_;  ///< or none
  MeasuredChoice by_cublas_;                ///< or by mma
  int processors_ = 0;
  std::set<const void*> shared_allowed_;  ///< kernels
  std::function<void()> look_;            ///< while the host waits; may be none
  std::uint64_t bodies_ = 0;              ///< that began
  std::uint64_t stretch_ = 0;
  std::uint64_t done_ = 0;   ///< the stretches before are
  std::deque<Event> ends_;   ///< of stretches from done_ on, those that no wait ended
  std::vector<Event> idle_;  ///< events for more
  Event followed_;           ///< of the stream that was followed last
  DeviceMemory sending_;     ///< pinned: what was sent since the last wait
  std::size_t sending_size_ = 0;
  std::size_t sent_ = 0;  ///< bytes of it
  DeviceMemory fetched_;  ///< pinned
  std::size_t fetched_size_ = 0;
  Buffer rows_{*this};  ///< of what is done row by row
  Buffer more_rows_{*this};
  Buffer products_{*this};
  Buffer hidden_{*this};  ///< what lies between two products
  Buffer groups_{*this};  ///< what group() gave last
  Buffer pairs_{*this};   ///< rows of such groups
  Buffer positions_{*this};
  Buffer frequencies_{*this};
  Buffer places_{*this};   ///< of keys and values
  Buffer tiles_{*this};    ///< of attention
  Buffer slots_{*this};    ///< the same
  Buffer tables_{*this};   ///< of attention: blocks of all sequences
  Buffer partial_{*this};  ///< of attention: sums of each part of the positions
};

}  // namespace coterie
