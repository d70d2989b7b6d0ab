#include "kernels/cpu_device.hpp"

#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <stdexcept>

namespace coterie {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool one_thread_only = true;  // ThreadSanitizer doesn't see OpenMP's barriers, and takes all for races
#else
constexpr bool one_thread_only = false;
#endif

}  // namespace

CpuDevice::CpuDevice(const DeviceOptions& options)
    : options_(options), expert_scratch_(static_cast<std::size_t>(std::max(options.threads, 1))) {
  require(options.threads >= 1, "a device needs a thread at least");
  if (one_thread_only) options_.threads = 1;
}

std::string CpuDevice::name() const {
  switch (instruction_set()) {
    case InstructionSet::avx512_bf16:
      return "CPU (AVX-512 with bf16)";
    case InstructionSet::avx512:
      return "CPU (AVX-512)";
    case InstructionSet::avx2:
      return "CPU (AVX2)";
    case InstructionSet::any:
      break;
  }
  return "CPU";
}

DeviceMemory CpuDevice::allocate(std::size_t bytes) {
  return allocate_aligned(bytes);
}

std::byte* CpuDevice::Scratch::reserve(std::size_t bytes) {
  if (bytes > size_) {
    memory_.reset();
    memory_ = allocate_aligned(bytes);
    size_ = bytes;
  }
  return memory_.get();
}

int CpuDevice::threads_for(std::int64_t operations) const {
  constexpr std::int64_t worth_a_thread = 500'000;
  return static_cast<int>(std::clamp<std::int64_t>(operations / worth_a_thread, 1, options_.threads));
}

void CpuDevice::upload(std::span<const float> host, const Tensor& out) {
  require(static_cast<std::int64_t>(host.size()) == out.rows * out.cols, "upload: the sizes differ");
  for (std::int64_t r = 0; r < out.rows; ++r) {
    const float* from = host.data() + r * out.cols;
    if (out.type == DType::f32) {
      std::copy(from, from + out.cols, f32_row(out, r));
    } else {
      auto* to = reinterpret_cast<std::uint16_t*>(out.data) + r * out.stride;
      for (std::int64_t c = 0; c < out.cols; ++c) to[c] = to_bf16(from[c]);
    }
  }
}

void CpuDevice::download(const Tensor& in, std::span<float> host) {
  require(static_cast<std::int64_t>(host.size()) == in.rows * in.cols, "download: the sizes differ");
  for (std::int64_t r = 0; r < in.rows; ++r) {
    float* to = host.data() + r * in.cols;
    if (in.type == DType::f32) {
      std::copy(f32_row(in, r), f32_row(in, r) + in.cols, to);
    } else {
      const auto* from = reinterpret_cast<const std::uint16_t*>(in.data) + r * in.stride;
      for (std::int64_t c = 0; c < in.cols; ++c) to[c] = from_bf16(from[c]);
    }
  }
}

std::unique_ptr<PackedMatrix> CpuDevice::pack(const WeightSource& source) {
  require(source.rows >= 1 && source.cols >= 1, "a weight without rows or columns can't be packed");
  return std::make_unique<CpuMatrix>(source, options_.weights);
}

std::unique_ptr<PackedMatrix> CpuDevice::adopt(const PackedForm& form, std::span<const std::byte> bytes) {
  return std::make_unique<CpuMatrix>(form, bytes);
}

std::unique_ptr<Device> make_cpu_device(const DeviceOptions& options) {
  return std::make_unique<CpuDevice>(options);
}

}  // namespace coterie
