#include "kernels/cpu_simd.hpp"
#include "kernels/cuda/cublas_products.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/expert_slabs.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

namespace coterie {
namespace {

/// Rows of a weight that are read at a time.
constexpr std::int64_t panel_numbers = std::int64_t{1} << 20;
constexpr std::size_t least_pinned = std::size_t{1} << 20;  // bytes
constexpr std::size_t sent_at_a_time = std::size_t{16} << 10;
constexpr std::int64_t least_room = 32;
constexpr std::int64_t most_room = 1024;

}  // namespace

CudaDevice::CudaDevice(const DeviceOptions& options, int index, ExpertKernels experts)
    : options_(options), index_(index), queue_(std::make_shared<CudaQueue>(index, options.graphs)) {
  require(options.weights == DType::bf16 || options.activations == DType::f32,
          "activations in bf16 need weights in bf16");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "the device's properties");
  processors_ = properties.multiProcessorCount;
  const bool can = properties.major == 9 && properties.minor == 0 && options.activations == DType::bf16;
  if (experts == ExpertKernels::wgmma && !can) {
    throw std::runtime_error(std::string("experts by wgmma need compute capability 9.0 and activations in bf16; ") +
                             properties.name + " has " + std::to_string(properties.major) + "." +
                             std::to_string(properties.minor));
  }
  wgmma_ = can && (experts == ExpertKernels::best || experts == ExpertKernels::wgmma);
  if (experts != ExpertKernels::cublas) return;
  if (options.weights != options.activations) {
    throw std::runtime_error("experts by cuBLAS need weights and activations of one type");
  }
  cublas_ = std::make_unique<CublasProducts>(allocate(CublasProducts::workspace_bytes));
}

CudaDevice::~CudaDevice() {
  (void)cudaStreamSynchronize(stream_);
  cublas_.reset();
}

std::string CudaDevice::name() const {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index_), "the device's properties");
  return std::string("CUDA ") + std::to_string(index_) + " (" + properties.name + ")";
}

DeviceMemory CudaDevice::allocate(std::size_t bytes) {
  return {memory_->take(bytes), [arena = memory_, queue = queue_](std::byte* memory) {
            queue->end_stretch();
            arena->give(memory);
          }};
}

DeviceMemory CudaDevice::allocate_shared(std::size_t bytes) {
  return {pinned_->take(bytes), [arena = pinned_, queue = queue_](std::byte* memory) {
            queue->end_stretch();
            arena->give(memory);
          }};
}

void CudaDevice::reserve(std::size_t bytes, std::size_t shared) {
  memory_->reserve(bytes);
  pinned_->reserve(shared);
}

std::optional<std::size_t> CudaDevice::free_memory() const {
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for the memory that is free");
  return free;
}

void CudaDevice::wait() {
  while (look_ && cudaStreamQuery(stream_) == cudaErrorNotReady) look_();
  check(cudaStreamSynchronize(stream_), "waiting");
  std::ranges::move(ends_, std::back_inserter(idle_));
  ends_.clear();
  done_ = ++stretch_;
  sent_ = 0;
}

CudaDevice::Event CudaDevice::make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
  return Event(event);
}

bool CudaDevice::is_done(std::uint64_t stretch) {
  for (; done_ <= stretch && !ends_.empty() && cudaEventQuery(ends_.front().get()) == cudaSuccess; ++done_) {
    idle_.push_back(std::move(ends_.front()));
    ends_.pop_front();
  }
  return stretch < done_;
}

void CudaDevice::precede(cudaStream_t stream) {
  if (idle_.empty()) idle_.push_back(make_event());
  Event end = std::move(idle_.back());
  idle_.pop_back();
  check(cudaEventRecord(end.get(), stream_), "recording an event");
  check(cudaStreamWaitEvent(stream, end.get(), 0), "waiting for an event");
  ends_.push_back(std::move(end));
  ++stretch_;
  // What the next stretch sends lies where it lay before, though this one sent somewhat more or less.
  sent_ = (sent_ + sent_at_a_time - 1) / sent_at_a_time * sent_at_a_time;
}

void CudaDevice::follow(cudaStream_t stream) {
  if (!followed_) followed_ = make_event();
  check(cudaEventRecord(followed_.get(), stream), "recording an event");
  check(cudaStreamWaitEvent(stream_, followed_.get(), 0), "waiting for an event");
}

void CudaDevice::repeat(std::uint64_t key, const std::function<void()>& body) {
  if (sent_ > 0) wait();  // what the body sends begins at the same place
  ++bodies_;
  stream_.repeat(key, body);
}

void CudaDevice::copy(std::span<const std::byte> from, std::span<std::byte> to) {
  require(from.size() == to.size(), "copy: the sizes differ");
  if (from.empty()) return;
  stream_.copy(to.data(), from.data(), from.size(), cudaMemcpyDefault);
}

std::byte* CudaDevice::Buffer::reserve(std::size_t bytes) {
  kept_.clear();
  if (bytes > size_ || !memory_) {
    memory_.reset();
    memory_ = device_.allocate(bytes + bytes / 4);
    size_ = bytes + bytes / 4;
  }
  return memory_.get();
}

bool CudaDevice::Buffer::holds(std::span<const std::byte> bytes) const {
  return !bytes.empty() && kept_in_ == device_.bodies_ && std::ranges::equal(kept_, bytes);
}

void CudaDevice::send(const void* from, std::size_t bytes, void* to, std::size_t room) {
  room = std::max(room, bytes);
  if (room == 0) return;
  if (const std::size_t all = sent_ + room; all > sending_size_) {
    if (sent_ > 0) wait();
    sending_size_ = std::max(least_pinned, 2 * all);
    sending_ = allocate_shared(sending_size_);
  }
  std::byte* const place = sending_.get() + sent_;
  sent_ += (room + 63) / 64 * 64;
  std::copy_n(static_cast<const std::byte*>(from), bytes, place);
  std::fill_n(place + bytes, room - bytes, std::byte{});
  stream_.copy(to, place, room, cudaMemcpyHostToDevice);
}

std::int64_t CudaDevice::room_for(std::int64_t rows) const {
  if (rows == 0 || rows > most_room) return rows;
  return std::max(least_room, static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(rows))));
}

const std::byte* CudaDevice::fetch(const Bytes2D& from) {
  const std::size_t bytes = from.width * from.height;
  if (bytes > fetched_size_) {
    fetched_size_ = std::max(least_pinned, bytes + bytes / 4);
    fetched_ = allocate_shared(fetched_size_);
  }
  if (from.height == 1) {
    stream_.copy(fetched_.get(), from.data, bytes, cudaMemcpyDeviceToHost);
  } else {
    check(cudaMemcpy2DAsync(fetched_.get(), from.width, from.data, from.pitch, from.width, from.height,
                            cudaMemcpyDeviceToHost, stream_),
          "a copy to the host");
  }
  wait();
  return fetched_.get();
}

void CudaDevice::upload(std::span<const float> host, const Tensor& out) {
  require(static_cast<std::int64_t>(host.size()) == out.rows * out.cols, "upload: the sizes differ");
  if (host.empty()) return;
  const void* from = host.data();
  std::vector<std::uint16_t> narrowed;
  if (out.type == DType::bf16) {
    narrowed.resize(host.size());
    std::ranges::transform(host, narrowed.begin(), to_bf16);
    from = narrowed.data();
  }
  const std::size_t width = static_cast<std::size_t>(out.cols) * size_of(out.type);
  check(cudaMemcpy2DAsync(out.data, static_cast<std::size_t>(out.stride) * size_of(out.type), from, width, width,
                          static_cast<std::size_t>(out.rows), cudaMemcpyHostToDevice, stream_),
        "a copy to the device");
  wait();
}

void CudaDevice::download(const Tensor& in, std::span<float> host) {
  require(static_cast<std::int64_t>(host.size()) == in.rows * in.cols, "download: the sizes differ");
  if (host.empty()) return;
  const std::size_t width = static_cast<std::size_t>(in.cols) * size_of(in.type);
  const std::byte* came = fetch(
      {in.data, static_cast<std::size_t>(in.stride) * size_of(in.type), width, static_cast<std::size_t>(in.rows)});
  if (in.type == DType::bf16) {
    std::ranges::transform(std::span(reinterpret_cast<const std::uint16_t*>(came), host.size()), host.begin(),
                           from_bf16);
  } else {
    std::memcpy(host.data(), came, host.size_bytes());
  }
}

CudaLayout CudaDevice::layout_for(WeightUse use) const {
  if (wgmma_ && use == WeightUse::expert_gate_up) return CudaLayout::gated_slabs;
  if (wgmma_ && use == WeightUse::expert_down) return CudaLayout::slabs;
  return options_.weights == DType::f32 ? CudaLayout::f32_rows : CudaLayout::bf16_rows;
}

std::unique_ptr<PackedMatrix> CudaDevice::pack(const WeightSource& source) {
  require(source.rows >= 1 && source.cols >= 1, "a weight without rows or columns can't be packed");
  const CudaLayout layout = layout_for(source.use);
  if (layout == CudaLayout::slabs || layout == CudaLayout::gated_slabs) {
    const SlabOrder order = layout == CudaLayout::slabs ? SlabOrder::plain : SlabOrder::gated;
    require(layout == CudaLayout::slabs || source.rows % 2 == 0, "gate and up have as many rows each");
    DeviceMemory slabs = allocate(static_cast<std::size_t>(slab_sizes(source.rows, source.cols, order).bytes()));
    pack_slabs(source, order, [&](std::int64_t first, std::span<const std::byte> some) {
      check(cudaMemcpyAsync(slabs.get() + first, some.data(), some.size(), cudaMemcpyHostToDevice, stream_),
            "a copy of weights");
      wait();
    });
    return std::make_unique<CudaMatrix>(source.rows, source.cols, layout, std::move(slabs));
  }
  const DType type = options_.weights;
  const std::int64_t stride = CudaMatrix::stride_of(source.cols);
  const std::size_t pitch = static_cast<std::size_t>(stride) * size_of(type);
  DeviceMemory memory = allocate(static_cast<std::size_t>(source.rows) * pitch);
  const std::int64_t rows_a_panel = std::max<std::int64_t>(1, panel_numbers / source.cols);
  std::vector<float> numbers;
  std::vector<std::uint16_t> halves;
  for (std::int64_t first = 0; first < source.rows; first += rows_a_panel) {
    const std::int64_t rows = std::min(rows_a_panel, source.rows - first);
    const auto count = static_cast<std::size_t>(rows * source.cols);
    const bool read_halves = type == DType::bf16 && source.fits_bf16 && source.read_bf16;
    if (type == DType::bf16) halves.resize(count);
    if (read_halves) {
      source.read_bf16(first, rows, halves.data());
    } else {
      numbers.resize(count);
      source.read(first, rows, numbers.data());
      if (type == DType::bf16) std::ranges::transform(numbers, halves.begin(), to_bf16);
    }
    // Rows end in zeros.
    std::vector<std::byte> padded(static_cast<std::size_t>(rows) * pitch);
    const auto* from = type == DType::bf16 ? reinterpret_cast<const std::byte*>(halves.data())
                                           : reinterpret_cast<const std::byte*>(numbers.data());
    const std::size_t width = static_cast<std::size_t>(source.cols) * size_of(type);
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      std::copy_n(from + r * width, width, padded.data() + r * pitch);
    }
    check(cudaMemcpyAsync(memory.get() + static_cast<std::size_t>(first) * pitch, padded.data(), padded.size(),
                          cudaMemcpyHostToDevice, stream_),
          "a copy of weights");
    wait();
  }
  return std::make_unique<CudaMatrix>(source.rows, source.cols, layout, std::move(memory));
}

CudaMatrix::CudaMatrix(const PackedForm& form, std::span<const std::byte> bytes)
    : out_features_(form.out_features),
      in_features_(form.in_features),
      layout_(static_cast<CudaLayout>(form.layout)),
      data_(bytes.data()) {
  require(form.layout >= 0 && form.layout <= static_cast<std::int64_t>(CudaLayout::gated_slabs),
          "a packed weight of another kind of device");
  require(CudaMatrix::bytes().size() == bytes.size(), "a packed weight's bytes don't fit its form");
}

std::span<const std::byte> CudaMatrix::bytes() const noexcept {
  std::int64_t count = 0;
  switch (layout_) {
    case CudaLayout::f32_rows:
      count = out_features_ * stride() * 4;
      break;
    case CudaLayout::bf16_rows:
      count = out_features_ * stride() * 2;
      break;
    case CudaLayout::slabs:
      count = slab_sizes(out_features_, in_features_, SlabOrder::plain).bytes();
      break;
    case CudaLayout::gated_slabs:
      count = slab_sizes(out_features_, in_features_, SlabOrder::gated).bytes();
      break;
  }
  return {data_, static_cast<std::size_t>(count)};
}

std::unique_ptr<PackedMatrix> CudaDevice::adopt(const PackedForm& form, std::span<const std::byte> bytes) {
  auto matrix = std::make_unique<CudaMatrix>(form, bytes);
  const auto fits = [&](WeightUse use) { return matrix->layout() == layout_for(use); };
  require(fits(WeightUse::linear) || fits(WeightUse::expert_gate_up) || fits(WeightUse::expert_down),
          "a packed weight is of another type, or of a GPU of another kind");
  return matrix;
}

const CudaMatrix& as_cuda_matrix(const PackedMatrix& matrix) {
  const auto* cuda = dynamic_cast<const CudaMatrix*>(&matrix);
  if (cuda == nullptr) throw std::invalid_argument("a weight was packed by another kind of device");
  return *cuda;
}

std::vector<std::string> cuda_devices() {
  std::vector<std::string> uuids;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    (void)cudaGetLastError();  // or the next call would answer with it
    return uuids;
  }
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "the device's properties");
    std::string uuid;
    for (const char byte : properties.uuid.bytes) {
      constexpr const char* digits = "0123456789abcdef";
      const auto value = static_cast<unsigned char>(byte);
      uuid += {digits[value / 16], digits[value % 16]};
    }
    uuids.push_back(uuid);
  }
  return uuids;
}

std::unique_ptr<Device> make_cuda_device(const DeviceOptions& options, int index, ExpertKernels experts) {
  return std::make_unique<CudaDevice>(options, index, experts);
}

}  // namespace coterie
