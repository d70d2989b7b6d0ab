// Splits independent work over threads.
#pragma once

#include <cstddef>
#include <functional>

namespace coterie {

/// Calls work(0) ... work(items - 1), each once, on up to `threads` threads (0: all cores), in no order. What a call
/// throws is thrown here after all threads have stopped.
void parallel_for(int threads, std::size_t items, const std::function<void(std::size_t)>& work);

}  // namespace coterie
