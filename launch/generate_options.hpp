// The command line of `coterie generate`.
#pragma once

#include "kernels/cuda_devices.hpp"
#include "placement/dispatch/plan_dispatch.hpp"
#include "runtime/layers/domains.hpp"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

namespace coterie {

/// What computes; `any`: a GPU where there is one.
enum class DeviceKind { cpu, cuda, any };
/// What carries rows between ranks; `any`: NCCL where every rank has a GPU of its own.
enum class Transport { mpi, nccl, any };

struct GenerateOptions {
  std::filesystem::path model, input, output;
  std::filesystem::path plan, trace_out, logits_out, metrics;  ///< empty: none

  DType dtype = DType::f32;   ///< how weights are kept
  int experts_per_token = 0;  ///< 0: as the model's config says
  int threads = 1;            ///< of a rank
  DeviceKind device = DeviceKind::cpu;
  ExpertKernels expert_kernels = ExpertKernels::best;  ///< of a GPU
  bool share_gpu = false;                              ///< also by more ranks of a node than it has GPUs
  bool cuda_graphs = true;
  Transport transport = Transport::any;
  std::optional<bool> low_latency;  ///< small messages by kernels that store into other GPUs; nothing: where faster

  /// Nothing: the program chooses.
  std::optional<Coherence> coherence = Coherence::rank;
  std::optional<bool> replicate = false;  ///< decode rows are computed on every rank of the domain, but for the experts
  std::optional<int> micro_batches = 1;   ///< a step's sequences go through the layers in so many parts
  std::filesystem::path machine;          ///< empty: measured where something is to be chosen

  DispatchOptions dispatch;                ///< where rows go whose rank has too many
  std::uint64_t spill_cache = 512U << 20;  ///< bytes of a rank, for experts of others

  std::int64_t max_batch_tokens = 2048;    ///< rows of a step on a rank, of prompts and continuations together
  std::int64_t max_batch_size = 256;       ///< sequences of a rank at once
  std::optional<std::uint64_t> kv_memory;  ///< bytes of a rank; nothing: found by the program

  std::uint64_t seed = 0;                      ///< of requests that name none
  std::chrono::duration<double> timeout{300};  ///< longest wait for other ranks
  int ranks_per_node = 0;                      ///< 0: found by shared memory
};

/// `arguments` are those behind `generate`. Nothing when they ask for help. Throws InputError (option, found, expected)
/// for an option that is unknown, missing, given twice, or has no good value; files are not looked at.
[[nodiscard]] std::optional<GenerateOptions> parse_generate_options(std::span<const char* const> arguments);

/// One screen: the options in groups, with their defaults.
[[nodiscard]] std::string generate_help();

}  // namespace coterie
