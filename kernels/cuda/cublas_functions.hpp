// The functions of cuBLAS that the project calls, of the library that is loaded where the program runs.
#pragma once

#include <cublas_v2.h>

namespace coterie {

struct CublasFunctions {
  decltype(&cublasCreate) create = nullptr;
  decltype(&cublasDestroy) destroy = nullptr;
  decltype(&cublasSetStream) set_stream = nullptr;
  decltype(&cublasSetWorkspace) set_workspace = nullptr;
  decltype(&cublasGetStatusString) text = nullptr;
  /// cublasGemmGroupedBatchedEx, which headers before 12.5 lack.
  cublasStatus_t (*multiply_groups)(cublasHandle_t, const cublasOperation_t*, const cublasOperation_t*, const int*,
                                    const int*, const int*, const void*, const void* const*, cudaDataType_t, const int*,
                                    const void* const*, cudaDataType_t, const int*, const void*, void* const*,
                                    cudaDataType_t, const int*, int, const int*, cublasComputeType_t) = nullptr;
};

/// Throws std::runtime_error where there is no cuBLAS of 12.5 or later.
[[nodiscard]] const CublasFunctions& cublas_functions();

}  // namespace coterie
