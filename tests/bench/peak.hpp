// What the processor can do at best, measured: multiply-adds on registers alone.
#pragma once

namespace coterie {

/// Seconds that this thread has run for: on shared cores the clock on the wall tells of the others.
[[nodiscard]] double cpu_seconds();
/// GFLOP/s of one thread, measured at the first call.
[[nodiscard]] double peak_f32();
/// The same with bf16 pairs; 0 where the processor has no instruction for them.
[[nodiscard]] double peak_bf16();

}  // namespace coterie
