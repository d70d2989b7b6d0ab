#include "kernels/cuda/expert_slabs.hpp"
#include "kernels/cuda/gpu.hpp"
#include "kernels/cuda/row_maps.hpp"

#include <cstring>

namespace coterie {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function; the project isn't linked with the driver, which machines without a GPU don't have.
Encode encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  constexpr unsigned since = 12000;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, since, cudaEnableDefault, &found),
        "the driver's cuTensorMapEncodeTiled");
#else
  check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found),
        "the driver's cuTensorMapEncodeTiled");
#endif
  if (found != cudaDriverEntryPointSuccess) throw std::runtime_error("CUDA: the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<Encode>(function);
}

/// Boxes of so many rows x `slab_step` columns.
CUtensorMap map_of(const Tensor& rows, int box) {
  static const Encode encode = encoder();
  CUtensorMap map{};
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(rows.cols), static_cast<cuuint64_t>(rows.rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(rows.stride) * 2};
  const cuuint32_t boxes[] = {static_cast<cuuint32_t>(slab_step), static_cast<cuuint32_t>(box)};
  const cuuint32_t every[] = {1, 1};
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, rows.data, sizes, strides, boxes, every,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error("CUDA: a map of rows: cuTensorMapEncodeTiled says " + std::to_string(result));
  }
  return map;
}

}  // namespace

RowMaps::RowMaps(const Tensor& rows, int many_rows, int few_rows)
    : many(map_of(rows, many_rows)), few(map_of(rows, few_rows)) {}

bool RowMaps::operator==(const RowMaps& other) const {
  return std::memcmp(&many, &other.many, sizeof many) == 0 && std::memcmp(&few, &other.few, sizeof few) == 0;
}

}  // namespace coterie
