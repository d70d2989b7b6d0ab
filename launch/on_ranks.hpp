// Subcommands that run on ranks: the one place that starts and ends MPI for them.
#pragma once

#include "comm/communicator.hpp"

#include <functional>

namespace coterie {

/// Runs `body` with an MPI session and returns its exit code. Bad input that all ranks know of is told once, by rank 0,
/// and ends the ranks one by one; anything else that is thrown is told as `[rank r] …` and ends the whole job, so that
/// no rank waits for ever.
int on_ranks(const std::function<int(MpiSession&)>& body);

}  // namespace coterie
