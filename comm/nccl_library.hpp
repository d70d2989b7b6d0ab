// Which NCCL there is. It is loaded at run time, so that the program starts where there is none.
#pragma once

#include "comm/shared_library.hpp"

namespace coterie {

/// The library, loaded by the first call: the one that the loader finds, else the one that was there at build time.
[[nodiscard]] const SharedLibrary& nccl_library();

/// Of the library: 22809 for 2.28.9; 0 without one.
[[nodiscard]] int nccl_version();

}  // namespace coterie
