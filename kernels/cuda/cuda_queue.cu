#include "kernels/cuda/cuda_queue.hpp"
#include "kernels/cuda/gpu.hpp"

#include <algorithm>

namespace coterie {
namespace {

constexpr std::size_t most_recordings = 32;

class CopyWork final : public QueuedWork {
 public:
  CopyWork(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind)
      : to_(to), from_(from), bytes_(bytes), kind_(kind) {}
  void start(cudaStream_t stream) const override {
    check(cudaMemcpyAsync(to_, from_, bytes_, kind_, stream), "a copy to or from the device");
  }
  [[nodiscard]] bool same(const QueuedWork& other) const override {
    const auto* copy = dynamic_cast<const CopyWork*>(&other);
    return copy != nullptr && copy->to_ == to_ && copy->from_ == from_ && copy->bytes_ == bytes_ &&
           copy->kind_ == kind_;
  }
  [[nodiscard]] std::unique_ptr<QueuedWork> clone() const override { return std::make_unique<CopyWork>(*this); }

 private:
  void* to_;
  const void* from_;
  std::size_t bytes_;
  cudaMemcpyKind kind_;
};

}  // namespace

CudaQueue::CudaQueue(int index, bool graphs) : graphs_(graphs) {
  check(cudaSetDevice(index), "choosing the device");
  check(cudaStreamCreate(&stream_), "a stream");
}

CudaQueue::~CudaQueue() {
  (void)cudaStreamSynchronize(stream_);
  recordings_.clear();
  (void)cudaStreamDestroy(stream_);
}

void CudaQueue::submit(const QueuedWork& work) {
  if (state_ == State::following) {
    const auto& known = recordings_.front().work;
    if (held_ < known.size() && known[held_]->same(work)) {
      ++held_;
      return;
    }
    diverge();
  }
  work.start(stream_);
  if (state_ == State::recording) recordings_.front().work.push_back(work.clone());
}

void CudaQueue::copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  submit(CopyWork(to, from, bytes, kind));
}

void CudaQueue::repeat(std::uint64_t key, const std::function<void()>& body) {
  if (!graphs_ || state_ != State::plain) return body();
  const auto known = std::ranges::find(recordings_, key, &Recording::key);
  if (known != recordings_.end()) {
    recordings_.splice(recordings_.begin(), recordings_, known);
    state_ = State::following;
    held_ = 0;
  } else {
    recordings_.emplace_front().key = key;
    if (recordings_.size() > most_recordings) recordings_.pop_back();
    state_ = State::recording;
  }
  try {
    body();
  } catch (...) {
    break_off();
    throw;
  }
  finish();
}

void CudaQueue::diverge() {
  Recording& recording = recordings_.front();
  recording.graph.reset();
  recording.work.resize(held_);
  state_ = State::recording;
  for (const auto& work : recording.work) work->start(stream_);
}

void CudaQueue::break_off() {
  if (state_ == State::plain) return;
  if (state_ == State::following) diverge();
  recordings_.pop_front();
  state_ = State::plain;
}

void CudaQueue::finish() {
  if (state_ == State::following && held_ < recordings_.front().work.size()) diverge();
  const bool all_same = state_ == State::following;
  state_ = State::plain;
  if (!all_same || held_ == 0) return;
  Recording& recording = recordings_.front();
  if (!recording.graph) recording.graph = graph_of(recording);
  check(cudaGraphLaunch(recording.graph.get(), stream_), "a graph's launch");
}

CudaQueue::Graph CudaQueue::graph_of(const Recording& recording) const {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "a graph");
  for (const auto& work : recording.work) work->start(stream_);
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_, &graph), "a graph");
  cudaGraphExec_t started = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&started, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(error, "a graph");
  return Graph(started);
}

}  // namespace coterie
