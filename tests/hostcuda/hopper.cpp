// What tests/hostcuda/kernels/cuda/ptx.hpp declares, by the rules of PTX ISA 8.0.
#include "kernels/cuda/ptx.hpp"
#include "tests/hostcuda/emulation.hpp"

#include <array>
#include <bit>
#include <deque>
#include <vector>

namespace coterie {
namespace {

constexpr std::uint32_t first_address = 128;  // of dynamic shared memory: no kernel may count on more
constexpr int swizzled_row = 128;             // bytes

struct Copy {
  std::uint32_t to;              ///< address
  std::vector<std::byte> bytes;  ///< read when it ends
  std::function<void(std::byte*)> read;
  Barrier* ended;
};
std::vector<Copy> copies;  // on their way

struct OneProduct {
  float* sums;
  int columns;
  std::uint64_t left, right;
};
struct Products {
  bool fenced = false;
  std::vector<OneProduct> open;  ///< not in a group yet
  std::deque<std::vector<OneProduct>> groups;
};
std::array<Products, 1024> products;  // of each thread

struct SomeBarrier {
  unsigned arrived = 0;
  std::uint64_t turn = 0;
};
std::array<SomeBarrier, 16> some_barriers;

std::byte* memory_at(std::uint32_t address, std::size_t bytes) {
  const std::uint32_t offset = address - first_address;
  if (address < first_address || offset + bytes > hostcuda::dynamic_shared_bytes()) {
    hostcuda::fail("an address outside of the block's shared memory");
  }
  return hostcuda::dynamic_shared() + offset;
}

/// Where the copy engine and products find a byte: the address' bits 4 to 6 are turned by bits 7 to 9.
std::uint32_t swizzled(std::uint32_t address) {
  return address ^ (address >> 3 & 0x70U);
}

void end_some_copy() {
  hostcuda::Random& random = hostcuda::the_random();
  if (copies.empty() || random.one_in(4)) return;
  std::swap(copies[random() % copies.size()], copies.back());
  Copy copy = std::move(copies.back());
  copies.pop_back();
  copy.read(copy.bytes.data());
  for (std::size_t i = 0; i < copy.bytes.size(); i += 16) {
    std::memcpy(memory_at(copy.to + static_cast<std::uint32_t>(i), 16), copy.bytes.data() + i, 16);
  }
  copy.ended->end_bytes(static_cast<unsigned>(copy.bytes.size()));
}

template <class Done>
void wait_until(const Done& done) {
  while (!done()) {
    end_some_copy();
    hostcuda::poll();
  }
}

Products& mine() {
  return products[threadIdx.x];
}

/// 16 numbers of row `row` from the matrix' first column on.
void read_row(std::uint64_t matrix, int row, float* out) {
  const auto field = [&](int bit) { return static_cast<std::uint32_t>(matrix >> bit & 0x3fffU) << 4; };
  if (matrix >> 62 != 1 || (matrix >> 49 & 7U) != 0) hostcuda::fail("a matrix in another swizzle");
  const std::uint32_t address =
      field(0) + static_cast<std::uint32_t>(row / 8) * field(32) + static_cast<std::uint32_t>(row % 8) * swizzled_row;
  for (std::uint32_t half = 0; half < 2; ++half) {
    std::uint16_t bits[8];
    std::memcpy(bits, memory_at(swizzled(address + 16 * half), 16), 16);
    for (int i = 0; i < 8; ++i)
      out[half * 8 + static_cast<unsigned>(i)] = std::bit_cast<float>(std::uint32_t{bits[i]} << 16);
  }
}

void compute(const OneProduct& product) {
  const int thread = static_cast<int>(threadIdx.x % 128);
  const int row = thread / 32 * 16 + thread % 32 / 4;
  float left[2][16];
  for (int i = 0; i < 2; ++i) read_row(product.left, row + 8 * i, left[i]);
  for (int column = 0; column < product.columns; column += 8) {
    for (int c = 0; c < 2; ++c) {
      float right[16];
      read_row(product.right, column + thread % 4 * 2 + c, right);
      for (int i = 0; i < 2; ++i) {
        float& sum = product.sums[column / 2 + 2 * i + c];
        for (int k = 0; k < 16; ++k) sum += left[i][k] * right[k];
      }
    }
  }
}

}  // namespace

std::uint32_t shared_address(const void* shared) {
  return first_address + static_cast<std::uint32_t>(static_cast<const std::byte*>(shared) - hostcuda::dynamic_shared());
}

void Barrier::init(unsigned arrivals) {
  bytes_ = 0;
  pending_ = static_cast<std::uint16_t>(arrivals);
  arrivals_ = static_cast<std::uint16_t>(arrivals) & 0x7fffU;
  parity_ = 0;
}

void Barrier::end_phase() {
  hostcuda::changed();
  if (pending_ > 0 || bytes_ != 0) return;
  pending_ = arrivals_;
  parity_ ^= 1U;
}

void Barrier::arrive() {
  if (pending_ == 0) hostcuda::fail("more arrivals at a barrier than it waits for");
  --pending_;
  end_phase();
}

void Barrier::arrive_expecting(unsigned bytes) {
  bytes_ += static_cast<std::int32_t>(bytes);
  arrive();
}

void Barrier::end_bytes(unsigned bytes) {
  bytes_ -= static_cast<std::int32_t>(bytes);
  if (bytes_ < 0) hostcuda::fail("a copy of bytes that its barrier doesn't expect");
  end_phase();
}

void Barrier::wait(unsigned parity) {
  wait_until([&] { return parity_ != parity; });
}

void fence_barriers() {
  copies.clear();
  for (Products& of : products) of = {};
  for (SomeBarrier& barrier : some_barriers) barrier = {};
}

void copy_bulk(void* shared, const void* global, unsigned bytes, Barrier& ended) {
  const std::uint32_t to = shared_address(shared);
  if (bytes % 16 != 0 || to % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0) {
    hostcuda::fail("a copy that isn't of 16s of bytes");
  }
  copies.push_back(
      {to, std::vector<std::byte>(bytes), [=](std::byte* out) { std::memcpy(out, global, bytes); }, &ended});
}

void copy_box(void* shared, const CUtensorMap& map, int column, int row, Barrier& ended) {
  const std::uint32_t to = shared_address(shared);
  if (to % 1024 != 0) hostcuda::fail("a box that isn't on 1,024 bytes");
  const std::size_t bytes = static_cast<std::size_t>(map.box_rows) * swizzled_row;
  copies.push_back({to, std::vector<std::byte>(bytes),
                    [=](std::byte* out) {
                      for (int r = 0; r < map.box_rows; ++r) {
                        for (int c = 0; c < map.box_columns; ++c) {
                          std::uint16_t number = 0;
                          if (row + r >= 0 && row + r < map.rows && column + c >= 0 && column + c < map.columns) {
                            std::memcpy(&number, map.data + (row + r) * map.row_bytes + std::ptrdiff_t{column + c} * 2,
                                        2);
                          }
                          const std::uint32_t at = static_cast<std::uint32_t>(r * swizzled_row + c * 2);
                          std::memcpy(out + (swizzled(to + at) - to), &number, 2);
                        }
                      }
                    },
                    &ended});
}

void hopper::fence_products() {
  mine().fenced = true;
}

void hopper::multiply(float* sums, int columns, std::uint64_t left, std::uint64_t right) {
  if (!mine().fenced) hostcuda::fail("a product without a fence before it");
  mine().open.push_back({sums, columns, left, right});
}

void products_commit() {
  mine().groups.push_back(std::exchange(mine().open, {}));
}

void hopper::wait_for_products(std::size_t groups) {
  Products& of = mine();
  of.fenced = false;
  for (; of.groups.size() > groups; of.groups.pop_front()) {
    for (const OneProduct& product : of.groups.front()) compute(product);
  }
}

std::uint32_t packed_bf16(float low, float high) {
  return std::uint32_t{__float2bfloat16(high).bits} << 16 | __float2bfloat16(low).bits;
}

void store_transposed(void* shared, std::uint32_t first, std::uint32_t second) {
  const unsigned lane = threadIdx.x % 32;
  const std::uint32_t words[] = {first, second};
  for (unsigned i = 0; i < 2; ++i) {
    for (unsigned c = 0; c < 2; ++c) {
      // The address of the column that this number is in.
      const std::uint32_t to = hostcuda::shuffle(shared_address(shared), i * 8 + lane % 4 * 2 + c);
      if (to % 16 != 0) hostcuda::fail("stmatrix to an address that isn't on 16 bytes");
      const auto number = static_cast<std::uint16_t>(words[i] >> 16 * c);
      std::memcpy(memory_at(to + lane / 4 * 2, 2), &number, 2);
    }
  }
}

void sync_some(unsigned barrier, unsigned threads) {
  SomeBarrier& at = some_barriers[barrier];
  const std::uint64_t turn = at.turn;
  hostcuda::changed();
  if (++at.arrived == threads) {
    at.arrived = 0;
    ++at.turn;
    return;
  }
  wait_until([&] { return at.turn != turn; });
}

}  // namespace coterie

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* every, CUtensorMapInterleave, CUtensorMapSwizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const bool fits = rank == 2 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && strides[0] % 16 == 0 &&
                    strides[0] >= sizes[0] * 2 && sizes[0] > 0 && sizes[1] > 0 && box[0] * 2 == 128 && box[1] >= 1 &&
                    box[1] <= 256 && every[0] == 1 && every[1] == 1;
  if (!fits) return CUDA_ERROR_INVALID_VALUE;
  *map = {static_cast<const std::byte*>(data),
          static_cast<std::int64_t>(sizes[0]),
          static_cast<std::int64_t>(sizes[1]),
          static_cast<std::int64_t>(strides[0]),
          static_cast<int>(box[0]),
          static_cast<int>(box[1])};
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
