#include "runtime/engine/host_memory.hpp"

#include <sys/resource.h>

#include <fstream>
#include <string>

namespace coterie {

std::int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

bool memory_is_short() {
  std::ifstream file("/proc/meminfo");
  std::string field, unit;
  std::int64_t kibibytes = 0, total = 0, available = 0;
  while (available == 0 && file >> field >> kibibytes >> unit) {
    if (field == "MemTotal:") total = kibibytes;
    if (field == "MemAvailable:") available = kibibytes;
  }
  return total > 0 && available < total / 32;
}

}  // namespace coterie
