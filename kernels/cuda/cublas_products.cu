#include "kernels/cuda/cublas_functions.hpp"
#include "kernels/cuda/cublas_products.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <random>
#include <vector>

namespace coterie {

struct CublasProducts::State {
  DeviceMemory workspace;
  cublasHandle_t cublas = nullptr;

  static void check(cublasStatus_t status, const char* what) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw std::runtime_error(std::string("cuBLAS: ") + what + ": " + cublas_functions().text(status));
  }
};

CublasProducts::CublasProducts(DeviceMemory workspace) : state_(std::make_unique<State>()) {
  state_->workspace = std::move(workspace);
  State::check(cublas_functions().create(&state_->cublas), "a handle");
}

CublasProducts::~CublasProducts() {
  if (state_->cublas != nullptr) (void)cublas_functions().destroy(state_->cublas);
}

void CublasProducts::multiply(std::span<const Product> products, void* const* addresses, cudaStream_t stream) {
  const CublasFunctions& cublas = cublas_functions();
  State::check(cublas.set_stream(state_->cublas, stream), "its stream");  // which takes the workspace away
  State::check(cublas.set_workspace(state_->cublas, state_->workspace.get(), workspace_bytes), "its workspace");
  // Its matrices are column-major: out^T = weight * in^T, each read as what it is in rows.
  const std::size_t count = products.size();
  std::vector<int> outputs, rows, inputs, weight_strides, in_strides, out_strides;
  for (const Product& p : products) {
    outputs.push_back(static_cast<int>(p.weight->out_features()));
    rows.push_back(static_cast<int>(p.in.rows));
    inputs.push_back(static_cast<int>(p.weight->in_features()));
    weight_strides.push_back(static_cast<int>(p.weight->stride()));
    in_strides.push_back(static_cast<int>(p.in.stride));
    out_strides.push_back(static_cast<int>(p.out.stride));
  }
  const std::vector<cublasOperation_t> turned(count, CUBLAS_OP_T), as_is(count, CUBLAS_OP_N);
  const std::vector<float> ones(count, 1), zeros(count, 0);
  const std::vector<int> single(count, 1);
  const cudaDataType_t type = products.front().in.type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const auto all = static_cast<std::ptrdiff_t>(count);
  State::check(cublas.multiply_groups(state_->cublas, turned.data(), as_is.data(), outputs.data(), rows.data(),
                                      inputs.data(), ones.data(), addresses, type, weight_strides.data(),
                                      addresses + all, type, in_strides.data(), zeros.data(), addresses + 2 * all, type,
                                      out_strides.data(), static_cast<int>(count), single.data(), CUBLAS_COMPUTE_32F),
               "grouped products");
}

void CudaDevice::multiply_by_cublas(std::span<const Product> products) {
  std::vector<void*> addresses;
  for (const Product& p : products) addresses.push_back(const_cast<std::byte*>(p.weight->bytes().data()));
  for (const Product& p : products) addresses.push_back(p.in.data);
  for (const Product& p : products) addresses.push_back(p.out.data);
  void* const* on_device = products_.put(std::span<void* const>(addresses));
  cublas_->multiply(products, on_device, stream_);
}

void CudaDevice::groups_by_cublas(const Tensor& in, const RowGroups& groups, const CudaExpertSet& set,
                                  const Tensor& out) {
  const std::size_t bytes = (static_cast<std::size_t>(groups.experts) + 1) * sizeof(std::int32_t);
  const auto* first = reinterpret_cast<const std::int32_t*>(fetch({groups.first, bytes, bytes, 1}));
  std::vector<ExpertRows> rows;
  for (int e = 0; e < groups.experts; ++e) {
    rows.push_back({set.experts()[static_cast<std::size_t>(e)], first[e], first[e + 1] - first[e]});
  }
  const std::int64_t all = first[groups.experts];
  experts(in.row_range(0, all), rows, out.row_range(0, all));
}

void CudaDevice::prepare_experts(std::span<const ExpertWeights* const> experts, std::int64_t rows) {
  if (!cublas_ || experts.size() < 2) return;
  using Clock = std::chrono::steady_clock;
  constexpr auto enough = std::chrono::milliseconds(300);
  constexpr std::int64_t most_rows_each = 1024, different = 64;
  const std::int64_t hidden = experts.front()->down->out_features();
  const auto start = Clock::now();
  const auto all = static_cast<std::int64_t>(experts.size());
  const std::int64_t most = std::min(rows, all * most_rows_each);
  DeviceMemory memory[3];
  const Tensor in = allocate(most, hidden, memory[0]), out = allocate(most, hidden, memory[1]);
  const Tensor few = allocate(different, hidden, memory[2]);
  std::mt19937 random(1);
  std::vector<float> numbers(static_cast<std::size_t>(different * hidden));
  for (float& x : numbers) x = static_cast<float>(random() % 256) / 128 - 1;
  upload(numbers, few);
  std::vector<std::int32_t> order(static_cast<std::size_t>(most));
  for (std::int32_t& r : order) r = static_cast<std::int32_t>(random() % different);
  gather(few, order, in);
  for (std::int64_t each = 1; each <= most_rows_each; each *= 4) {
    for (const std::int64_t present : {all, all / 4}) {
      const std::int64_t together = present * each;
      if (present < 2 || together > most || Clock::now() - start > enough) continue;
      std::vector<ExpertRows> groups;
      for (std::int64_t e = 0; e < present; ++e)
        groups.push_back({experts[static_cast<std::size_t>(e)], e * each, each});
      std::array<std::vector<Clock::duration>, 2> times;
      for (int turn = -1; turn < 3; ++turn) {  // the first isn't counted
        for (const bool by_cublas : {false, true}) {
          const auto begin = Clock::now();
          experts_in_rows(in.row_range(0, together), groups, out.row_range(0, together), by_cublas);
          wait();
          if (turn >= 0) times[by_cublas ? 1 : 0].push_back(Clock::now() - begin);
        }
      }
      for (auto& of : times) std::ranges::sort(of);
      by_cublas_.add(present, together, times[1][1] < times[0][1]);
    }
  }
}

}  // namespace coterie
