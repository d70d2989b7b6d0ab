// What tests/hostcuda/kernels/cuda/mma.hpp declares, by the rules of PTX ISA 8.0.
#include "kernels/cuda/mma.hpp"

#include "tests/hostcuda/emulation.hpp"

#include <algorithm>
#include <array>
#include <numeric>
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
struct Copies {
  std::vector<Copy> open;           ///< in the order in which they were asked for
  std::vector<std::size_t> groups;  ///< how many each has; what follows is in no group yet
};
std::array<Copies, 1024> copies;  // of each thread

}  // namespace

void mma::require_aligned(const void* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % copied_bytes != 0) {
    hostcuda::fail("an address that isn't on 16 bytes");
  }
}

void mma::copy(void* shared, const void* global, bool real) {
  require_aligned(shared);
  require_aligned(global);
  const Copy copy{shared, global, real};
  if (hostcuda::the_random().one_in(4)) return copy.end();
  copies[threadIdx.x].open.push_back(copy);
}

void copies_commit() {
  auto& [open, groups] = copies[threadIdx.x];
  groups.push_back(open.size() - std::reduce(groups.begin(), groups.end()));
}

void mma::wait_for_copies(std::size_t most) {
  auto& [open, groups] = copies[threadIdx.x];
  if (groups.size() <= most) return;
  const auto waited = groups.end() - static_cast<std::ptrdiff_t>(most);
  const auto ended = open.begin() + static_cast<std::ptrdiff_t>(std::reduce(groups.begin(), waited));
  std::for_each(open.begin(), ended, [](const Copy& copy) { copy.end(); });
  open.erase(open.begin(), ended);
  groups.erase(groups.begin(), waited);
}

}  // namespace coterie
