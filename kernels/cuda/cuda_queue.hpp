// The stream of a GPU's work. What a repeated body asks for is remembered, and asked for again it goes as one CUDA
// graph.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

namespace coterie {

/// A piece of work, a value: it can be given to a stream any number of times.
class QueuedWork {
 public:
  virtual ~QueuedWork() = default;
  virtual void start(cudaStream_t stream) const = 0;
  [[nodiscard]] virtual bool same(const QueuedWork& other) const = 0;
  [[nodiscard]] virtual std::unique_ptr<QueuedWork> clone() const = 0;
};

/// Nothing is taken on trust: while a body runs, what it asks for is held back and compared, piece by piece, with what
/// was asked for before. It comes in stretches, which end where the host or another stream waits for it. One that is
/// all the same as one before starts as a graph when it ends. Another starts at the first difference, and everything
/// from there on at once. What steps differ in must therefore lie in the pinned memory that copies read, at the same
/// places. Not for several threads at a time.
class CudaQueue {
 public:
  /// On GPU `index`, which becomes this thread's.
  CudaQueue(int index, bool graphs);
  ~CudaQueue();
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;

  /// For what is put on the stream otherwise, or waits for it: ends the stretch. To be asked for anew each time: what
  /// is submitted later is held back again.
  operator cudaStream_t() {  // NOLINT(google-explicit-constructor): as a stream is used
    end_stretch();
    return stream_;
  }
  void submit(const QueuedWork& work);
  /// `to` and `from` as cudaMemcpyAsync takes them; the end on the host is pinned.
  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
  /// Runs `body`. The n-th stretch of a body is compared with the n-th of those with the same key.
  void repeat(std::uint64_t key, const std::function<void()>& body);
  /// What is held back starts. To be called before memory goes that it may use, too.
  void end_stretch();

 private:
  struct DestroyGraph {
    std::size_t* count;  ///< of graphs that there are
    void operator()(cudaGraphExec_t graph) const noexcept {
      (void)cudaGraphExecDestroy(graph);
      --*count;
    }
  };
  using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;
  /// What a stretch asked for.
  struct Recording {
    std::vector<std::unique_ptr<QueuedWork>> work;
    Graph graph;  ///< once it was asked for twice
  };
  using Recordings = std::list<Recording>;  ///< of one stretch, the last used first
  struct Body {
    std::uint64_t key = 0;
    std::uint64_t last_run = 0;
    std::vector<Recordings> stretches;
  };

  /// Of the stretch that goes on.
  [[nodiscard]] Recordings& known();
  /// Brings to the front a recording that begins as what is held back and then suits; whether there is one.
  template <class Suits>
  [[nodiscard]] bool find(const Suits& suits);
  /// Starts what is held back, and a new recording with it.
  void differ();
  /// Nothing is held back.
  void start_anew();
  /// None where the GPU has no memory for it: then there are no more from then on.
  [[nodiscard]] Graph graph_of(const Recording& recording);

  bool graphs_;
  cudaStream_t stream_ = nullptr;
  std::size_t graphs_made_ = 0;  ///< that there are
  std::size_t most_graphs_;
  std::uint64_t runs_ = 0;  ///< of bodies
  std::list<Body> bodies_;  ///< the last used first
  bool repeats_ = false;    ///< the first of them runs
  std::size_t stretch_ = 0;
  std::size_t held_ = 0;  ///< pieces, those that the first recording begins with
  bool differs_ = false;  ///< nothing is held back: it is recorded
};

/// Whether a kernel does the same with both. Types without == are compared by their bytes: padding may make equal ones
/// look different, which costs a graph, no more.
template <class T>
[[nodiscard]] bool same_argument(const T& a, const T& b) {
  if constexpr (std::equality_comparable<T>) {
    return a == b;
  } else {
    return std::memcmp(&a, &b, sizeof a) == 0;
  }
}

/// A kernel's launch.
template <class... Parameters>
class KernelWork final : public QueuedWork {
 public:
  KernelWork(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, Parameters... arguments)
      : kernel_(kernel), grid_(grid), block_(block), shared_bytes_(shared_bytes), arguments_(arguments...) {}

  void start(cudaStream_t stream) const override {
    std::apply([&](const auto&... arguments) { start_with(stream, arguments...); }, arguments_);
  }
  [[nodiscard]] bool same(const QueuedWork& other) const override {
    const auto* kernel = dynamic_cast<const KernelWork*>(&other);
    return kernel != nullptr && kernel->kernel_ == kernel_ && numbers() == kernel->numbers() &&
           same_arguments(*kernel, std::index_sequence_for<Parameters...>());
  }
  [[nodiscard]] std::unique_ptr<QueuedWork> clone() const override { return std::make_unique<KernelWork>(*this); }

 private:
  void start_with(cudaStream_t stream, const Parameters&... arguments) const {
#ifdef COTERIE_HOSTCUDA
    hostcuda::launch(
        grid_, block_, shared_bytes_, stream, [kernel = kernel_, arguments...] { kernel(arguments...); },
        reinterpret_cast<const void*>(kernel_));
#else
    kernel_<<<grid_, block_, shared_bytes_, stream>>>(arguments...);
#endif
  }
  [[nodiscard]] std::array<std::size_t, 7> numbers() const {
    return {grid_.x, grid_.y, grid_.z, block_.x, block_.y, block_.z, shared_bytes_};
  }
  template <std::size_t... I>
  [[nodiscard]] bool same_arguments(const KernelWork& other, std::index_sequence<I...>) const {
    return (same_argument(std::get<I>(arguments_), std::get<I>(other.arguments_)) && ...);
  }

  void (*kernel_)(Parameters...);
  dim3 grid_, block_;
  std::size_t shared_bytes_;
  std::tuple<Parameters...> arguments_;
};

}  // namespace coterie
