// Memory of one kind, of a GPU or pinned on its host, dealt out of few large allocations.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <vector>

namespace coterie {

/// Before reserve() every piece is an allocation of its own. Afterwards none is given back to CUDA before the end, and
/// the GPU's are given again without waiting: who gives one back knows that what still uses it comes before whatever
/// uses it next. Pinned ones, which the host writes to, come back when the GPU is done. Not for several threads at a
/// time.
class CudaArena {
 public:
  enum class Kind { device, pinned };
  explicit CudaArena(Kind kind) : kind_(kind) {}
  CudaArena(const CudaArena&) = delete;
  CudaArena& operator=(const CudaArena&) = delete;

  /// Takes so much at once. Once. Throws std::runtime_error with the bytes wanted and those free.
  void reserve(std::size_t bytes);
  [[nodiscard]] bool reserved() const noexcept { return !whole_.empty(); }
  /// On a boundary of 256 bytes. Where what was reserved is not enough it grows. Throws as reserve() does.
  [[nodiscard]] std::byte* take(std::size_t bytes);
  void give(std::byte* memory) noexcept;

 private:
  struct Free {
    Kind kind;
    void operator()(std::byte* memory) const noexcept;
  };
  using Whole = std::unique_ptr<std::byte[], Free>;
  [[nodiscard]] std::byte* allocate(std::size_t bytes) const;
  void grow(std::size_t bytes);

  Kind kind_;
  std::vector<Whole> whole_;                ///< the allocations that pieces are of
  std::set<const std::byte*> first_;        ///< where these begin
  std::map<std::byte*, std::size_t> free_;  ///< bytes, by where they begin; neighbours of one allocation are one
  std::map<std::byte*, std::size_t> taken_;
};

}  // namespace coterie
