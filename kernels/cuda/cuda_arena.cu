#include "kernels/cuda/cuda_arena.hpp"
#include "kernels/cuda/gpu.hpp"

#include <algorithm>
#include <iterator>
#include <string>

namespace coterie {
namespace {

constexpr std::size_t boundary = 256;  // as cudaMalloc's own
constexpr std::size_t least_growth = std::size_t{16} << 20;

}  // namespace

void CudaArena::Free::operator()(std::byte* memory) const noexcept {
  (void)(kind == Kind::device ? cudaFree(memory) : cudaFreeHost(memory));
}

std::byte* CudaArena::allocate(std::size_t bytes) const {
  void* memory = nullptr;
  const cudaError_t error = kind_ == Kind::device ? cudaMalloc(&memory, bytes) : cudaMallocHost(&memory, bytes);
  if (error == cudaSuccess) return static_cast<std::byte*>(memory);
  (void)cudaGetLastError();  // or the next call would answer with it
  std::string there;
  std::size_t free = 0;
  std::size_t total = 0;
  if (kind_ == Kind::device && cudaMemGetInfo(&free, &total) == cudaSuccess) {
    there = ", " + std::to_string(free) + " of " + std::to_string(total) + " are free on the GPU";
  }
  throw std::runtime_error("CUDA: " + std::to_string(bytes) + " bytes of " +
                           (kind_ == Kind::device ? "memory" : "pinned memory") + " are wanted" + there + ": " +
                           cudaGetErrorString(error));
}

void CudaArena::reserve(std::size_t bytes) {
  grow(bytes);
}

void CudaArena::grow(std::size_t bytes) {
  bytes = (std::max(bytes, least_growth) + boundary - 1) / boundary * boundary;
  whole_.emplace_back(allocate(bytes), Free{kind_});
  first_.insert(whole_.back().get());
  free_[whole_.back().get()] = bytes;
}

std::byte* CudaArena::take(std::size_t bytes) {
  bytes = (std::max<std::size_t>(bytes, 1) + boundary - 1) / boundary * boundary;
  if (!reserved()) return allocate(bytes);
  const auto best = [&] {
    auto found = free_.end();
    for (auto piece = free_.begin(); piece != free_.end(); ++piece) {
      if (piece->second >= bytes && (found == free_.end() || piece->second < found->second)) found = piece;
    }
    return found;
  };
  auto piece = best();
  if (piece == free_.end()) {
    grow(bytes);
    piece = best();
  }
  const auto [memory, size] = *piece;
  free_.erase(piece);
  if (size > bytes) free_[memory + bytes] = size - bytes;
  taken_[memory] = bytes;
  return memory;
}

void CudaArena::give(std::byte* memory) noexcept {
  const auto mine = taken_.find(memory);
  if (mine == taken_.end()) return Free{kind_}(memory);  // from before reserve()
  if (kind_ == Kind::pinned) (void)cudaDeviceSynchronize();
  auto piece = free_.emplace(memory, mine->second).first;
  taken_.erase(mine);
  const auto join = [&](auto front, auto back) {
    if (front->first + front->second != back->first || first_.contains(back->first)) return front;
    front->second += back->second;
    free_.erase(back);
    return front;
  };
  if (const auto next = std::next(piece); next != free_.end()) piece = join(piece, next);
  if (piece != free_.begin()) join(std::prev(piece), piece);
}

}  // namespace coterie
