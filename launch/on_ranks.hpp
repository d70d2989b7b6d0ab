// Subcommands that run on ranks: the one place that starts and ends MPI for them.
#pragma once

#include "comm/communicator.hpp"

#include <chrono>
#include <functional>

namespace coterie {

/// Runs `body` with an MPI session and returns its exit code. Bad input that all ranks know of is told once, by rank 0,
/// and ends the ranks one by one; anything else that is thrown is told as `[rank r] …` and ends the whole job, so that
/// no rank waits for ever. `timeout`: the longest wait for other ranks; MPI has a minute at least to start.
int on_ranks(std::chrono::duration<double> timeout, const std::function<int(MpiSession&)>& body);

}  // namespace coterie
