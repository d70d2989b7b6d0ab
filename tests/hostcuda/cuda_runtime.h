// Stands in for CUDA's header where device code is compiled for the host, with all the disorder that CUDA allows:
// blocks and threads (fibers of one host thread, switched at barriers) in random orders, the work of streams as late as
// can be and in a random order beside other streams', memory full of NaN at first. COTERIE_HOSTCUDA_SEED, which is
// written to stderr, brings an order back. What may not be ends the program with a message: barriers that not all
// threads reach, host code that touches device memory.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#define COTERIE_HOSTCUDA
#define CUDART_VERSION 13000

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static __attribute__((section("hostcuda_shared")))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  constexpr dim3(unsigned columns = 1, unsigned rows = 1, unsigned layers = 1) : x(columns), y(rows), z(layers) {}
  unsigned x, y, z;
};
struct uint4 {
  unsigned x, y, z, w;
};

using std::max;
using std::min;

extern dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace hostcuda {

/// Waits for the threads of the block, or of the warp.
void wait_for_block();
void wait_for_warp();
/// The memory that a launch asked for, contents undefined.
[[nodiscard]] std::byte* dynamic_shared();
[[nodiscard]] std::size_t dynamic_shared_bytes();
/// Lets other threads go on, of a thread that waits for what they do; changed() when it did something that one may wait
/// for. Threads that all wait with nothing changing end the program.
void poll();
void changed();
/// The same of a thread that waits for what other processes do: the host goes on meanwhile.
void poll_outside();
/// Ends the program, with where it stands.
[[noreturn]] void fail(const char* what);
/// Another lane's value. All lanes of the warp take part.
[[nodiscard]] std::uint64_t exchange(std::uint64_t value, unsigned lane);
[[nodiscard]] unsigned lane();

template <class T>
[[nodiscard]] T shuffle(T value, unsigned from) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(bits, from);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// Whether cudaMallocHost gave it; whether cudaMalloc did.
[[nodiscard]] bool is_pinned(const void* memory, std::size_t bytes);
[[nodiscard]] bool is_device_memory(const void* memory, std::size_t bytes);
/// A copy as a network card makes it, from or to memory of the host or the device.
void copy_between(void* to, const void* from, std::size_t bytes);

/// What the host has asked for so far.
struct Calls {
  std::int64_t allocations = 0;  ///< of the device's or pinned memory
  std::int64_t frees = 0;        ///< the same; they wait for the device
  std::int64_t waits = 0;        ///< for streams
  std::int64_t bytes_to_host = 0;
  std::int64_t pieces = 0;           ///< kernels and copies, each given to a stream by itself
  std::int64_t graphs = 0;           ///< started
  std::int64_t in_graphs = 0;        ///< pieces that they had
  std::int64_t pageable_copies = 0;  ///< whose end on the host isn't pinned: the driver copies once more, and may wait
};
[[nodiscard]] Calls calls();

}  // namespace hostcuda

inline void __syncthreads() {
  hostcuda::wait_for_block();
}
inline void __syncwarp(unsigned = 0xffffffffU) {
  hostcuda::wait_for_warp();
}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return hostcuda::shuffle(value, hostcuda::lane() ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T value, unsigned from) {
  return hostcuda::shuffle(value, from % 32);
}
template <class T>
unsigned __match_any_sync(unsigned, T value) {
  unsigned lanes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) lanes |= unsigned{hostcuda::shuffle(value, lane) == value} << lane;
  return lanes;
}
inline int __popc(unsigned bits) {
  return std::popcount(bits);
}

template <class T>
T __shfl_up_sync(unsigned, T value, unsigned distance) {
  const unsigned me = hostcuda::lane();
  return hostcuda::shuffle(value, me < distance ? me : me - distance);
}

template <class T>
T atomicAdd(T* at, T value) {
  return std::exchange(*at, *at + value);
}
inline float __expf(float x) {
  return std::exp(x);
}
/// Rounded by themselves: nothing may be contracted with them.
inline float __fmul_rn(float x, float y) {
  float product = x * y;
  __asm__("" : "+x"(product));
  return product;
}
inline float __fadd_rn(float x, float y) {
  float sum = x + y;
  __asm__("" : "+x"(sum));
  return sum;
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
inline float __fdividef(float x, float y) {
  return x / y;
}

// The functions of the CUDA runtime that the project calls.
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;
namespace hostcuda {
/// Puts work on a stream: called, when its turn has come, until it says that it is done.
void enqueue(cudaStream_t stream, std::function<bool()> work);
/// A kernel, whose every thread is a call of `body`. More than 48 KiB of shared memory need cudaFuncSetAttribute
/// before.
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> body,
            const void* kernel);
}  // namespace hostcuda
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNotReady = 600,
};
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDisableTiming = 2;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDefault = 4 };
struct cudaUUID_t {
  char bytes[16];
};
struct cudaDeviceProp {
  char name[256];
  cudaUUID_t uuid;
  int major, minor;
  int multiProcessorCount;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };
constexpr unsigned long long cudaEnableDefault = 0;

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMallocHost(void** memory, std::size_t bytes);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult* found);
// While a stream is captured the host may neither wait nor take or give back memory.
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* started, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaGetLastError();
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeDevice = 2 };
struct cudaPointerAttributes {
  cudaMemoryType type;
};
/// Knows what NCCL makes.
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);
const char* cudaGetErrorString(cudaError_t error);
