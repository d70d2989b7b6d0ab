// Times this project's experts on a GPU in bf16 for another program that takes turns with it. It reads commands from
// stdin and answers each with a line: `shape HIDDEN INTERMEDIATE ROWS...`, the rows of each expert, with the names of
// the kernels that can be timed; `time KERNEL` with the seconds of one call with cold caches, as the host sees it.
#include "kernels/cuda_devices.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace coterie {
namespace {

struct Array {
  DeviceMemory memory;
  Tensor tensor;
};

/// Experts by one kernel.
class Experts {
 public:
  Experts(ExpertKernels kernels, std::int64_t cache_bytes)
      : device_(make_cuda_device({DType::bf16, 1, DType::bf16}, 0, kernels)),
        other_(array(cache_bytes / 2 / other_cols, other_cols)) {}

  void prepare(std::int64_t hidden, std::int64_t intermediate, const std::vector<std::int64_t>& rows) {
    in_ = {};
    out_ = {};
    groups_.clear();
    experts_.clear();
    memory_.clear();
    const auto gate_up = matrix(2 * intermediate, hidden, WeightUse::expert_gate_up);
    const auto down = matrix(hidden, intermediate, WeightUse::expert_down);
    experts_.resize(rows.size());
    std::int64_t all = 0;
    for (std::size_t e = 0; e < rows.size(); all += rows[e++]) {
      experts_[e].gate_up = copy(*gate_up);
      experts_[e].down = copy(*down);
      if (rows[e] > 0) groups_.push_back({&experts_[e], all, rows[e]});
    }
    in_ = array(all, hidden);
    out_ = array(all, hidden);
    const std::int64_t different = std::min<std::int64_t>(all, 256);
    std::vector<float> numbers(static_cast<std::size_t>(different * hidden));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i * 2654435761U % 256) / 128 - 1;
    device_->upload(numbers, in_.tensor.row_range(0, different));
    std::vector<std::int32_t> order(static_cast<std::size_t>(all - different));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i) % 256;
    device_->gather(in_.tensor, order, in_.tensor.row_range(different, all - different));
    device_->wait();
  }

  [[nodiscard]] double seconds() {
    device_->scale(other_.tensor, 1);  // no cache holds what was used before
    device_->wait();
    const auto start = std::chrono::steady_clock::now();
    device_->experts(in_.tensor, groups_, out_.tensor);
    device_->wait();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  static constexpr std::int64_t other_cols = 4096;

  Array array(std::int64_t rows, std::int64_t cols) {
    Array out;
    out.tensor = device_->allocate(rows, cols, out.memory);
    return out;
  }
  std::unique_ptr<PackedMatrix> matrix(std::int64_t rows, std::int64_t cols, WeightUse use) {
    WeightSource source;
    source.rows = rows;
    source.cols = cols;
    source.fits_bf16 = true;
    source.use = use;
    source.read_bf16 = [cols](std::int64_t first, std::int64_t count, std::uint16_t* out) {
      for (std::int64_t i = 0; i < count * cols; ++i) {  // of size 1/128 to 1/64
        const auto hash = static_cast<std::uint32_t>(first * cols + i) * 2654435761U;
        out[i] = static_cast<std::uint16_t>((hash >> 31 << 15) | (120U << 7) | (hash >> 16 & 127));
      }
    };
    return device_->pack(source);
  }
  /// The same numbers in memory of its own.
  std::unique_ptr<PackedMatrix> copy(const PackedMatrix& matrix) {
    const std::span<const std::byte> bytes = matrix.bytes();
    std::int64_t cols = std::ssize(bytes) / 2, rows = 1;
    for (; cols % 2 == 0 && cols > 1024; cols /= 2) rows *= 2;
    DeviceMemory& memory = memory_.emplace_back(device_->allocate(bytes.size()));
    std::vector<std::int32_t> order(static_cast<std::size_t>(rows));
    std::iota(order.begin(), order.end(), 0);
    device_->gather({const_cast<std::byte*>(bytes.data()), DType::bf16, rows, cols, cols}, order,
                    {memory.get(), DType::bf16, rows, cols, cols});
    return device_->adopt(matrix.form(), {memory.get(), bytes.size()});
  }

  std::unique_ptr<Device> device_;
  Array other_, in_, out_;
  std::vector<DeviceMemory> memory_;
  std::vector<ExpertWeights> experts_;
  std::vector<ExpertRows> groups_;
};

void run(std::int64_t cache_bytes) {
  std::map<std::string, Experts> all;
  all.try_emplace("mma", ExpertKernels::mma, cache_bytes);
  try {
    all.try_emplace("wgmma", ExpertKernels::wgmma, cache_bytes);
  } catch (const std::runtime_error&) {  // not on this GPU
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, kernel;
    words >> command;
    if (command == "shape") {
      std::int64_t hidden = 0, intermediate = 0;
      std::vector<std::int64_t> rows;
      words >> hidden >> intermediate;
      for (std::int64_t some = 0; words >> some;) rows.push_back(some);
      if (hidden < 1 || intermediate < 1 || rows.empty()) throw std::runtime_error("no shape: " + line);
      for (auto& [name, experts] : all) {
        experts.prepare(hidden, intermediate, rows);
        std::cout << name << ' ';
      }
      std::cout << std::endl;
    } else if (command == "time" && words >> kernel && all.contains(kernel)) {
      std::cout << all.at(kernel).seconds() << std::endl;
    } else {
      throw std::runtime_error("no command: " + line);
    }
  }
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  if (coterie::cuda_devices().empty()) {
    std::fputs("expert_timer: no GPU\n", stderr);
    return 77;
  }
  try {
    constexpr std::int64_t more_than_any_cache = 512 << 20;
    coterie::run(argc > 1 ? std::stoll(argv[1]) : more_than_any_cache);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "expert_timer: %s\n", e.what());
    return 1;
  }
}
