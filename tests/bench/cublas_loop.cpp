#include "tests/bench/cublas_loop.hpp"

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace coterie {
namespace {

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

  State() {
    check(cudaStreamCreate(&stream));
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    check(cudaMalloc(&other, kForgotten));
    check(cublasCreate(&cublas));
    check(cublasSetStream(cublas, stream));
  }
  ~State() {
    (void)cublasDestroy(cublas);
    (void)cudaFree(other);
    (void)cudaEventDestroy(end);
    (void)cudaEventDestroy(begin);
    (void)cudaStreamDestroy(stream);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

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

void CublasLoop::wait() {
  check(cudaStreamSynchronize(state_->stream));
}

double CublasLoop::copy_seconds(std::byte* to, const std::byte* from, std::size_t bytes) {
  float milliseconds = 0;
  check(cudaEventRecord(state_->begin, state_->stream));
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, state_->stream));
  check(cudaEventRecord(state_->end, state_->stream));
  check(cudaEventSynchronize(state_->end));
  check(cudaEventElapsedTime(&milliseconds, state_->begin, state_->end));
  return 1e-3 * milliseconds;
}

void CublasLoop::forget() {
  check(cudaMemsetAsync(state_->other, 0, kForgotten, state_->stream));
  wait();
}

}  // namespace coterie
