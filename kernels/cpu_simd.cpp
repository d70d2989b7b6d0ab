#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace coterie {
namespace {

InstructionSet of_processor() {
#if defined(__x86_64__)
  __builtin_cpu_init();  // this may run before the constructors of the compiler's library
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (v3 && v4) return __builtin_cpu_supports("avx512bf16") ? InstructionSet::avx512_bf16 : InstructionSet::avx512;
  if (v3) return InstructionSet::avx2;
#endif
  return InstructionSet::any;
}

InstructionSet allowed() {
  const char* value = std::getenv("COTERIE_MAX_ISA");
  const std::string_view name = value == nullptr ? "" : value;
  return name == "any"      ? InstructionSet::any
         : name == "avx2"   ? InstructionSet::avx2
         : name == "avx512" ? InstructionSet::avx512
                            : InstructionSet::avx512_bf16;
}

}  // namespace

InstructionSet instruction_set() {
  return std::min(of_processor(), allowed());
}

}  // namespace coterie
