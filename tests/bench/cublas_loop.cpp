#include "tests/bench/cublas_loop.hpp"

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace coterie {
namespace {

constexpr std::size_t kMostGroups = 1024;
constexpr std::size_t kForgotten = std::size_t{512} << 20;  // bytes, more than any cache

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}
void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuBLAS: ") + cublasGetStatusString(status));
}

}  // namespace

struct CublasLoop::State {
  cublasHandle_t cublas = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  void* other = nullptr;
  void* addresses = nullptr;  ///< of a grouped call: three arrays

  State() {
    check(cudaStreamCreate(&stream));
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    check(cudaMalloc(&other, kForgotten));
    check(cudaMalloc(&addresses, 3 * kMostGroups * sizeof(void*)));
    check(cublasCreate(&cublas));
    check(cublasSetStream(cublas, stream));
  }
  ~State() {
    (void)cublasDestroy(cublas);
    (void)cudaFree(addresses);
    (void)cudaFree(other);
    (void)cudaEventDestroy(end);
    (void)cudaEventDestroy(begin);
    (void)cudaStreamDestroy(stream);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  float milliseconds() {
    float taken = 0;
    check(cudaEventSynchronize(end));
    check(cudaEventElapsedTime(&taken, begin, end));
    return taken;
  }

  /// out (rows, outputs) = in (rows, inputs) * weight^T (outputs, inputs), all row-major: for cuBLAS, whose matrices
  /// are column-major, weight^T * in.
  void product(const Tensor& in, const PackedMatrix& weight, const Tensor& out) {
    const auto outputs = static_cast<int>(weight.out_features()), inputs = static_cast<int>(weight.in_features());
    const float one = 1, zero = 0;
    check(cublasGemmEx(cublas, CUBLAS_OP_T, CUBLAS_OP_N, outputs, static_cast<int>(in.rows), inputs, &one,
                       weight.bytes().data(), CUDA_R_16BF, inputs, in.data, CUDA_R_16BF, static_cast<int>(in.stride),
                       &zero, out.data, CUDA_R_16BF, static_cast<int>(out.stride), CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT));
  }
};

CublasLoop::CublasLoop() : state_(std::make_unique<State>()) {}
CublasLoop::~CublasLoop() = default;

void CublasLoop::experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& hidden,
                         const Tensor& out) {
  for (const ExpertRows& group : groups) {
    const ExpertWeights& expert = *group.expert;
    if (group.rows == 0) continue;
    const Tensor between = hidden.row_range(group.first_row, group.rows);
    state_->product(in.row_range(group.first_row, group.rows), *expert.gate_up, between);
    state_->product(between.col_range(0, expert.down->in_features()), *expert.down,
                    out.row_range(group.first_row, group.rows));
  }
}

#if CUBLAS_VERSION >= 120500
bool CublasLoop::grouped_experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& hidden,
                                 const Tensor& out) {
  const auto product = [&](const Tensor& from, bool up, const Tensor& to) {
    std::vector<int> outputs, rows, inputs, from_strides, to_strides;
    std::vector<const void*> weights, froms;
    std::vector<void*> tos;
    for (const ExpertRows& group : groups) {
      if (group.rows == 0) continue;
      const PackedMatrix& weight = up ? *group.expert->gate_up : *group.expert->down;
      outputs.push_back(static_cast<int>(weight.out_features()));
      inputs.push_back(static_cast<int>(weight.in_features()));
      rows.push_back(static_cast<int>(group.rows));
      from_strides.push_back(static_cast<int>(from.stride));
      to_strides.push_back(static_cast<int>(to.stride));
      weights.push_back(weight.bytes().data());
      froms.push_back(from.row_range(group.first_row, group.rows).data);
      tos.push_back(to.row_range(group.first_row, group.rows).data);
    }
    const std::size_t count = rows.size();
    const std::vector<cublasOperation_t> turned(count, CUBLAS_OP_T), as_is(count, CUBLAS_OP_N);
    const std::vector<float> ones(count, 1), zeros(count, 0);
    const std::vector<int> single(count, 1);
    // cuBLAS reads the addresses from the device's memory.
    const auto send = [&](const auto& addresses, int place) {
      void* at = static_cast<char*>(state_->addresses) + static_cast<std::size_t>(place) * kMostGroups * sizeof(void*);
      check(cudaMemcpyAsync(at, addresses.data(), count * sizeof(void*), cudaMemcpyHostToDevice, state_->stream));
      return at;
    };
    if (count > kMostGroups) throw std::runtime_error("cuBLAS: more groups than there is room for");
    check(cublasGemmGroupedBatchedEx(state_->cublas, turned.data(), as_is.data(), outputs.data(), rows.data(),
                                     inputs.data(), ones.data(), static_cast<const void* const*>(send(weights, 0)),
                                     CUDA_R_16BF, inputs.data(), static_cast<const void* const*>(send(froms, 1)),
                                     CUDA_R_16BF, from_strides.data(), zeros.data(),
                                     static_cast<void* const*>(send(tos, 2)), CUDA_R_16BF, to_strides.data(),
                                     static_cast<int>(count), single.data(), CUBLAS_COMPUTE_32F));
  };
  product(in, true, hidden);
  product(hidden.col_range(0, hidden.cols / 2), false, out);
  return true;
}
#else
bool CublasLoop::grouped_experts(const Tensor&, std::span<const ExpertRows>, const Tensor&, const Tensor&) {
  return false;
}
#endif

void CublasLoop::wait() {
  check(cudaStreamSynchronize(state_->stream));
}

double CublasLoop::copy_seconds(std::byte* to, const std::byte* from, std::size_t bytes) {
  check(cudaEventRecord(state_->begin, state_->stream));
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, state_->stream));
  check(cudaEventRecord(state_->end, state_->stream));
  return 1e-3 * state_->milliseconds();
}

double CublasLoop::dense_seconds(const Tensor& a, const Tensor& b, const Tensor& out) {
  const auto size = static_cast<int>(a.rows);
  const float one = 1, zero = 0;
  check(cudaEventRecord(state_->begin, state_->stream));
  check(cublasGemmEx(state_->cublas, CUBLAS_OP_T, CUBLAS_OP_N, size, size, size, &one, a.data, CUDA_R_16BF, size,
                     b.data, CUDA_R_16BF, size, &zero, out.data, CUDA_R_16BF, size, CUBLAS_COMPUTE_32F,
                     CUBLAS_GEMM_DEFAULT));
  check(cudaEventRecord(state_->end, state_->stream));
  return 1e-3 * state_->milliseconds();
}

void CublasLoop::forget() {
  check(cudaMemsetAsync(state_->other, 0, kForgotten, state_->stream));
  wait();
}

}  // namespace coterie
