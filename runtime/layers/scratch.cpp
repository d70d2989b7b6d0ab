#include "runtime/layers/scratch.hpp"

#include <algorithm>

namespace coterie {

Tensor Scratch::take(std::int64_t rows, std::int64_t cols) {
  constexpr std::size_t kAlign = 64;
  constexpr std::size_t kSmallest = 1 << 20;
  const DType type = device_.activation_type();
  const std::size_t bytes = (static_cast<std::size_t>(rows * cols) * size_of(type) + kAlign - 1) / kAlign * kAlign;
  if (pieces_.empty() || used_ + bytes > pieces_.back().bytes) {
    const std::size_t size = std::max(bytes, kSmallest);
    pieces_.push_back({device_.allocate(size), size});
    used_ = 0;
  }
  std::byte* at = pieces_.back().memory.get() + used_;
  used_ += bytes;
  return {at, type, rows, cols, cols};
}

void Scratch::reset() {
  used_ = 0;
  if (pieces_.size() <= 1) return;
  std::size_t total = 0;
  for (const Piece& piece : pieces_) total += piece.bytes;
  pieces_.clear();
  pieces_.push_back({device_.allocate(total), total});
}

}  // namespace coterie
