// cuBLAS on the emulated GPU: what it multiplies it does when its turn on the stream has come, each sum over the inputs
// in an order that a call of other shapes doesn't take.
#include "kernels/cuda/cublas_functions.hpp"
#include "tests/hostcuda/emulation.hpp"

#include <cuda_bf16.h>

#include <memory>
#include <vector>

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

namespace {

/// out (rows, outputs) = in * weight^T, all in rows.
struct Group {
  std::int64_t rows, outputs, inputs, weight_stride, in_stride, out_stride;
};

float number(float value) {
  return value;
}
float number(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
void set(float& to, float value) {
  to = value;
}
void set(__nv_bfloat16& to, float value) {
  to = __float2bfloat16(value);
}

template <class T>
void multiply(const Group& g, std::int64_t rows_of_all, const T* weight, const T* in, T* out) {
  const std::int64_t begin = rows_of_all * 7 % g.inputs;
  for (std::int64_t r = 0; r < g.rows; ++r) {
    for (std::int64_t o = 0; o < g.outputs; ++o) {
      float sum = 0;
      const auto add = [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
          sum += number(in[r * g.in_stride + i]) * number(weight[o * g.weight_stride + i]);
        }
      };
      add(begin, g.inputs);
      add(0, begin);
      set(out[r * g.out_stride + o], sum);
    }
  }
}

cublasStatus_t multiply_groups(cublasHandle_t handle, const cublasOperation_t* turn_a, const cublasOperation_t* turn_b,
                               const int* m, const int* n, const int* k, const void* alphas, const void* const* a,
                               cudaDataType_t a_type, const int* a_strides, const void* const* b, cudaDataType_t b_type,
                               const int* b_strides, const void* betas, void* const* c, cudaDataType_t c_type,
                               const int* c_strides, int count, const int* sizes, cublasComputeType_t) {
  if (a_type != b_type || b_type != c_type || handle->workspace == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  std::vector<Group> groups;
  for (int g = 0; g < count; ++g) {
    const bool fits = turn_a[g] == CUBLAS_OP_T && turn_b[g] == CUBLAS_OP_N && sizes[g] == 1 && m[g] > 0 && n[g] > 0 &&
                      k[g] > 0 && a_strides[g] >= k[g] && b_strides[g] >= k[g] && c_strides[g] >= m[g] &&
                      static_cast<const float*>(alphas)[g] == 1 && static_cast<const float*>(betas)[g] == 0;
    if (!fits) return CUBLAS_STATUS_INVALID_VALUE;
    groups.push_back({n[g], m[g], k[g], a_strides[g], b_strides[g], c_strides[g]});
  }
  hostcuda::enqueue(handle->stream, [=, groups = std::move(groups)] {
    hostcuda::unlock_device_memory();
    std::int64_t rows = 0;
    for (const Group& g : groups) rows += g.rows;
    std::memset(handle->workspace, 0xff, 64);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      if (a_type == CUDA_R_16BF) {
        using T = __nv_bfloat16;
        multiply(groups[g], rows, static_cast<const T*>(a[g]), static_cast<const T*>(b[g]), static_cast<T*>(c[g]));
      } else {
        multiply(groups[g], rows, static_cast<const float*>(a[g]), static_cast<const float*>(b[g]),
                 static_cast<float*>(c[g]));
      }
    }
    return true;
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}

/// Waits, as cuBLAS' does.
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  (void)cudaDeviceSynchronize();
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  handle->workspace = nullptr;  // as cuBLAS' own does
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, std::size_t bytes) {
  handle->workspace = workspace;
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "no error" : "an error";
}

const coterie::CublasFunctions& coterie::cublas_functions() {
  static const CublasFunctions functions{cublasCreate,       cublasDestroy,         cublasSetStream,
                                         cublasSetWorkspace, cublasGetStatusString, multiply_groups};
  return functions;
}
