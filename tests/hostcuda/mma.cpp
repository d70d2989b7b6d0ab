// What tests/hostcuda/kernels/cuda/mma.hpp declares, by the rules of PTX ISA 8.0.
#include "kernels/cuda/mma.hpp"

#include "tests/hostcuda/emulation.hpp"

#include <array>
#include <deque>
#include <utility>
#include <vector>

namespace coterie {
namespace {

constexpr std::size_t copied_bytes = 16;

struct Copy {
  void* to;
  const void* from;
  bool real;
  void end() const {
    if (real) {
      std::memcpy(to, from, copied_bytes);
    } else {
      std::memset(to, 0, copied_bytes);
    }
  }
};
using Group = std::vector<Copy>;
struct Copies {
  Group open;  ///< in no group yet
  std::deque<Group> groups;
};
std::array<Copies, 1024> copies;  // of each thread

void require_aligned(const void* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % copied_bytes != 0)
    hostcuda::fail("an address that isn't on 16 bytes");
}

}  // namespace

void mma::read(float (&out)[16], const Bf16* from) {
  require_aligned(from);
  for (int i = 0; i < 16; ++i) out[i] = __bfloat162float(from[i]);
}

void mma::copy(void* shared, const void* global, bool real) {
  require_aligned(shared);
  require_aligned(global);
  const Copy copy{shared, global, real};
  if (hostcuda::the_random().one_in(4)) return copy.end();
  copies[threadIdx.x].open.push_back(copy);
}

void copies_commit() {
  copies[threadIdx.x].groups.push_back(std::exchange(copies[threadIdx.x].open, {}));
}

void mma::wait_for_copies(std::size_t groups) {
  for (auto& all = copies[threadIdx.x].groups; all.size() > groups; all.pop_front()) {
    for (const Copy& copy : all.front()) copy.end();
  }
}

}  // namespace coterie
