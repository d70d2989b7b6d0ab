#include "kernels/cuda/cuda_queue.hpp"
#include "kernels/cuda/gpu.hpp"

#include <algorithm>
#include <span>

namespace coterie {
namespace {

constexpr std::size_t most_recordings = 4;  ///< of a stretch
constexpr std::size_t most_bodies = 32;
constexpr std::size_t most_graphs = 1024;  ///< as they take memory of the GPU
constexpr std::uint64_t idle = 256;        ///< bodies that run, after which one that didn't may go for others' graphs

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

CudaQueue::CudaQueue(int index, bool graphs) : graphs_(graphs), most_graphs_(most_graphs) {
  check(cudaSetDevice(index), "choosing the device");
  check(cudaStreamCreate(&stream_), "a stream");
}

CudaQueue::~CudaQueue() {
  (void)cudaStreamSynchronize(stream_);
  bodies_.clear();
  (void)cudaStreamDestroy(stream_);
}

void CudaQueue::submit(const QueuedWork& work) {
  if (!repeats_) return work.start(stream_);
  if (!differs_) {
    const auto goes_on = [&](const Recording& r) { return held_ < r.work.size() && r.work[held_]->same(work); };
    if (find(goes_on)) {
      ++held_;
      return;
    }
    differ();
  }
  work.start(stream_);
  known().front().work.push_back(work.clone());
}

void CudaQueue::copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  submit(CopyWork(to, from, bytes, kind));
}

void CudaQueue::repeat(std::uint64_t key, const std::function<void()>& body) {
  if (!graphs_ || repeats_) return body();
  if (const auto same = std::ranges::find(bodies_, key, &Body::key); same != bodies_.end()) {
    bodies_.splice(bodies_.begin(), bodies_, same);
  } else {
    bodies_.emplace_front().key = key;
  }
  bodies_.front().last_run = ++runs_;
  const auto in_the_way = [&] { return graphs_made_ >= most_graphs_ && runs_ - bodies_.back().last_run > idle; };
  while (bodies_.size() > most_bodies || in_the_way()) bodies_.pop_back();
  stretch_ = 0;
  repeats_ = true;
  try {
    body();
    end_stretch();
  } catch (...) {
    start_anew();
    repeats_ = false;
    throw;
  }
  repeats_ = false;
}

void CudaQueue::end_stretch() {
  if (!repeats_ || (!differs_ && held_ == 0)) return;
  Recording* same = nullptr;
  if (!differs_ && find([&](const Recording& r) { return held_ == r.work.size(); })) {
    same = &known().front();
  } else if (!differs_) {
    differ();
  }
  ++stretch_;
  start_anew();
  if (same == nullptr) return;
  if (!same->graph && graphs_made_ < most_graphs_) same->graph = graph_of(*same);
  if (same->graph) {
    check(cudaGraphLaunch(same->graph.get(), stream_), "a graph's launch");
  } else {
    for (const auto& work : same->work) work->start(stream_);
  }
}

void CudaQueue::start_anew() {
  held_ = 0;
  differs_ = false;
}

CudaQueue::Recordings& CudaQueue::known() {
  auto& stretches = bodies_.front().stretches;
  if (stretch_ == stretches.size()) stretches.emplace_back();
  return stretches[stretch_];
}

template <class Suits>
bool CudaQueue::find(const Suits& suits) {
  Recordings& all = known();
  const auto same = [](const auto& a, const auto& b) { return a->same(*b); };
  for (auto r = all.begin(); r != all.end(); ++r) {
    if (!suits(*r)) continue;
    const auto held = std::span(all.front().work).first(held_);
    if (r != all.begin() && !std::equal(held.begin(), held.end(), r->work.begin(), same)) continue;
    all.splice(all.begin(), all, r);
    return true;
  }
  return false;
}

void CudaQueue::differ() {
  Recordings& all = known();
  Recording fresh;
  for (std::size_t i = 0; i < held_; ++i) {
    fresh.work.push_back(all.front().work[i]->clone());
    fresh.work.back()->start(stream_);
  }
  all.push_front(std::move(fresh));
  if (all.size() > most_recordings) all.pop_back();
  differs_ = true;
}

CudaQueue::Graph CudaQueue::graph_of(const Recording& recording) {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "a graph");
  for (const auto& work : recording.work) work->start(stream_);
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_, &graph), "a graph");
  cudaGraphExec_t started = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&started, graph, 0);
  (void)cudaGraphDestroy(graph);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    most_graphs_ = graphs_made_;
    return Graph(nullptr, {&graphs_made_});
  }
  check(error, "a graph");
  ++graphs_made_;
  return Graph(started, {&graphs_made_});
}

}  // namespace coterie
