// The functions of the CUDA runtime. Work on a stream waits until the host asks for it, and then what different streams
// have to do is done in a random order that keeps to each stream's own and to events.
#include "tests/hostcuda/emulation.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <utility>
#include <vector>

struct CUgraph_st {
  std::vector<std::function<void(cudaStream_t)>> work;  ///< each puts itself on a stream
};
struct CUgraphExec_st {
  CUgraph_st graph;
};

struct CUstream_st {
  std::deque<std::function<bool()>> work;  ///< each says whether it is done
  std::unique_ptr<CUgraph_st> captured;    ///< what gets the work instead
  bool destroyed = false;                  ///< goes when its work is done
};

/// How often it was recorded, and came about.
struct CUevent_st {
  std::uint64_t recorded = 0, reached = 0;
};

#ifdef __SANITIZE_ADDRESS__
/// MPI leaves memory behind.
extern "C" const char* __asan_default_options() {
  return "detect_leaks=0";
}
#endif

namespace hostcuda {
namespace {

std::list<CUstream_st>& streams = *new std::list<CUstream_st>;
Calls counted;
std::map<const void*, std::size_t> allowed_shared;  // bytes, of kernels that asked for more than any has
std::map<const std::byte*, std::size_t>& pinned = *new std::map<const std::byte*, std::size_t>;  // by cudaMallocHost

/// Goes on with the stream's first piece of work. Whether that is done.
bool step(CUstream_st& stream) {
  if (!stream.work.front()()) return false;
  stream.work.pop_front();
  if (stream.destroyed && stream.work.empty()) streams.remove_if([&](const auto& other) { return &other == &stream; });
  return true;
}

CUstream_st* any_busy_stream() {
  std::vector<CUstream_st*> busy;
  for (CUstream_st& stream : streams) {
    if (!stream.work.empty()) busy.push_back(&stream);
  }
  return busy.empty() ? nullptr : busy[the_random()() % busy.size()];
}

/// Runs work until `done`, that of `wanted` first or, as it happens, other streams' too.
template <class Done>
void run_until(const Done& done, CUstream_st* wanted = nullptr) {
  const bool all = the_random().one_in(2);
  for (bool waits = false; !done();) {
    const bool any = wanted == nullptr || wanted->work.empty() || waits || (all && the_random().one_in(2));
    CUstream_st* stream = any ? any_busy_stream() : wanted;
    if (stream == nullptr) fail("the host waits for work that nobody gave");
    waits = !step(*stream);
  }
  lock_device_memory();
}

/// Ends the program where a stream is captured.
void outside_captures() {
  if (std::ranges::any_of(streams, [](const CUstream_st& stream) { return stream.captured != nullptr; })) {
    fail("a call that isn't allowed while a stream is captured");
  }
}

bool all_done() {
  return std::ranges::all_of(streams, [](const CUstream_st& stream) { return stream.work.empty(); });
}

cudaError_t last_error = cudaSuccess;
/// What isn't is also the last error.
cudaError_t is_ready(bool ready) {
  if (!ready) last_error = cudaErrorNotReady;
  return ready ? cudaSuccess : cudaErrorNotReady;
}

/// Rows of bytes, from one pitch to another.
struct Copy {
  std::byte* to;
  const std::byte* from;
  std::size_t to_pitch, from_pitch, width, height;
  [[nodiscard]] std::size_t reach(std::size_t pitch) const { return height == 0 ? 0 : (height - 1) * pitch + width; }
  void operator()() const {
    for (std::size_t r = 0; r < height; ++r) std::memcpy(to + r * to_pitch, from + r * from_pitch, width);
  }
};

/// What isn't pinned is read before the call returns, and written to as well.
void copy(Copy copy, cudaMemcpyKind kind, cudaStream_t stream) {
  counted.pieces += stream->captured ? 0 : 1;
  if (kind == cudaMemcpyDeviceToHost) counted.bytes_to_host += static_cast<std::int64_t>(copy.width * copy.height);
  if (kind == cudaMemcpyHostToDevice && !is_pinned(copy.from, copy.reach(copy.from_pitch))) {
    outside_captures();
    ++counted.pageable_copies;
    auto staged = std::make_shared<std::vector<std::byte>>(copy.reach(copy.from_pitch));
    Copy{staged->data(), copy.from, copy.from_pitch, copy.from_pitch, copy.width, copy.height}();
    copy.from = staged->data();
    return enqueue(stream, [copy, staged] {
      unlock_device_memory();
      copy();
      return true;
    });
  }
  const auto is_there = [](const std::byte* at, std::size_t bytes) {
    return is_pinned(at, bytes) || is_device_memory(at, bytes);
  };
  if (kind == cudaMemcpyDefault &&
      !(is_there(copy.from, copy.reach(copy.from_pitch)) && is_there(copy.to, copy.reach(copy.to_pitch)))) {
    fail("a copy whose ends are neither pinned nor the device's");
  }
  enqueue(stream, [copy] {
    unlock_device_memory();
    copy();
    return true;
  });
  if (kind == cudaMemcpyDeviceToHost && !is_pinned(copy.to, copy.reach(copy.to_pitch))) {
    outside_captures();
    ++counted.pageable_copies;
    run_until([&] { return stream->work.empty(); }, stream);
  }
}

}  // namespace

void enqueue(cudaStream_t stream, std::function<bool()> work) {
  if (stream == nullptr) fail("work on the default stream");
  if (stream->captured) {
    return stream->captured->work.push_back([work = std::move(work)](cudaStream_t on) { enqueue(on, work); });
  }
  stream->work.push_back(std::move(work));
}

void launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> body,
            const void* kernel) {
  constexpr std::size_t most_threads = 1024;
  constexpr std::size_t most_shared = std::size_t{48} << 10;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > most_threads || block.z > 64) fail("a launch with so many threads");
  if (grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535) {
    fail("a launch with so many blocks");
  }
  const auto allowed = allowed_shared.find(kernel);
  if (shared_bytes > (allowed == allowed_shared.end() ? most_shared : allowed->second)) {
    fail("a launch with more shared memory than its kernel may have");
  }
  const auto start = [=](cudaStream_t on) {
    enqueue(on, [running = std::make_shared<Kernel>(grid, block, shared_bytes, body)] {
      unlock_device_memory();
      return running->go_on();
    });
  };
  if (stream != nullptr && stream->captured) return stream->captured->work.push_back(start);
  ++counted.pieces;
  start(stream);
}

bool is_pinned(const void* memory, std::size_t bytes) {
  const auto* first = static_cast<const std::byte*>(memory);
  auto piece = pinned.upper_bound(first);
  return piece != pinned.begin() && first + bytes <= std::prev(piece)->first + std::prev(piece)->second;
}

Calls calls() {
  return counted;
}

}  // namespace hostcuda

using namespace hostcuda;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int) {
  std::snprintf(id, static_cast<std::size_t>(length), "0000:00:00.0");
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"hostcuda", {}, 9, 0, 3};
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  outside_captures();
  ++counted.allocations;
  *memory = take_device_memory(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

/// Waits for the whole device, as CUDA's does.
cudaError_t cudaFree(void* memory) {
  outside_captures();
  ++counted.frees;
  run_until(all_done);
  give_device_memory(memory);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = free_device_memory();
  *total = all_device_memory;
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  outside_captures();
  ++counted.allocations;
  if (posix_memalign(memory, 4096, bytes) != 0) return cudaErrorMemoryAllocation;
  spoil(*memory, bytes);
  pinned[static_cast<std::byte*>(*memory)] = bytes;
  return cudaSuccess;
}

/// Doesn't wait: nothing promises that CUDA's does.
cudaError_t cudaFreeHost(void* memory) {
  outside_captures();
  ++counted.frees;
  pinned.erase(static_cast<std::byte*>(memory));
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidValue;
  copy({static_cast<std::byte*>(to), static_cast<const std::byte*>(from), to_pitch, from_pitch, width, height}, kind,
       stream);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = &streams.emplace_back();
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  outside_captures();
  if (!stream->work.empty() && !step(*stream)) {
    if (CUstream_st* other = any_busy_stream(); other != stream) (void)step(*other);
  }
  lock_device_memory();
  return is_ready(stream->work.empty());
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return cudaSuccess;
  stream->destroyed = true;
  streams.remove_if([](const CUstream_st& other) { return other.destroyed && other.work.empty(); });
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  outside_captures();
  ++counted.waits;
  run_until(all_done);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  outside_captures();
  ++counted.waits;
  run_until([&] { return stream->work.empty(); }, stream);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  outside_captures();
  stream->captured = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->captured) return cudaErrorInvalidValue;
  *graph = stream->captured.release();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* started, cudaGraph_t graph, unsigned long long) {
  *started = new CUgraphExec_st{*graph};
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  outside_captures();
  ++counted.graphs;
  counted.in_graphs += std::ssize(graph->graph.work);
  for (const auto& work : graph->graph.work) work(stream);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  outside_captures();
  enqueue(stream, [event, times = event->recorded] { return event->reached >= times; });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  outside_captures();
  enqueue(stream, [event, times = ++event->recorded] {
    event->reached = std::max(event->reached, times);
    return true;
  });
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  outside_captures();
  ++counted.waits;
  run_until([&] { return event->reached == event->recorded; });
  return cudaSuccess;
}

/// Goes on with some stream, so that it comes about.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (CUstream_st* stream = any_busy_stream(); event->reached < event->recorded && stream != nullptr)
    (void)step(*stream);
  lock_device_memory();
  return is_ready(event->reached == event->recorded);
}

/// Work may still mean it.
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event->reached == event->recorded && all_done()) delete event;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  constexpr int most = 227 << 10;
  if (value < 0 || value > most) return cudaErrorInvalidValue;
  allowed_shared[kernel] = static_cast<std::size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error";
}
