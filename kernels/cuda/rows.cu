// What a GPU does row by row: gather, combine, norms, rotary embedding. One block a row; sums of a row in an order
// that depends on its length alone.
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <array>
#include <vector>

namespace coterie {
namespace {

constexpr unsigned row_threads = 128;

/// What fills 16 bytes, of the larger type.
template <class... T>
constexpr int piece = 16 / static_cast<int>(std::max({sizeof(T)...}));

/// each<Width>(c) for the columns [c, c + Width) that this thread has: by pieces where `wide`, else one by one.
template <int Piece, class Each>
__device__ void for_columns(std::int64_t cols, bool wide, const Each& each) {
  if (wide && cols % Piece == 0) {
    for (std::int64_t c = threadIdx.x * Piece; c < cols; c += row_threads * Piece) each.template operator()<Piece>(c);
  } else {
    for (std::int64_t c = threadIdx.x; c < cols; c += row_threads) each.template operator()<1>(c);
  }
}

template <int Width>
struct Sums {
  float x[Width] = {};
  template <class T>
  __device__ void add(float factor, const T* numbers) {
    const auto read = neighbours<Width>(numbers);
    for (int i = 0; i < Width; ++i) x[i] += factor * to_float(read.x[i]);
  }
  template <class T>
  __device__ void round() {
    for (float& sum : x) sum = to_float(from_float<T>(sum));
  }
  template <class T>
  __device__ void write(T* to) const {
    Neighbours<T, Width> rounded;
    for (int i = 0; i < Width; ++i) rounded.x[i] = from_float<T>(x[i]);
    *reinterpret_cast<Neighbours<T, Width>*>(to) = rounded;
  }
};

/// `count`: of the rows that there are, or none where each block has one.
template <class Table, class T>
__global__ void gather_rows(Matrix<const Table> table, const std::int32_t* rows, const std::int32_t* count,
                            std::int64_t cols, Matrix<T> out) {
  if (count != nullptr && static_cast<std::int64_t>(blockIdx.x) >= *count) return;
  const Table* from = table.row(rows[blockIdx.x]);
  T* to = out.row(blockIdx.x);
  for_columns<piece<Table, T>>(cols, is_on_16(from) && is_on_16(to), [&]<int Width>(std::int64_t c) {
    Neighbours<T, Width> written;
    const auto read = neighbours<Width>(from + c);
    for (int i = 0; i < Width; ++i) {
      if constexpr (std::is_same_v<Table, T>) {
        written.x[i] = read.x[i];
      } else {
        written.x[i] = from_float<T>(to_float(read.x[i]));
      }
    }
    *reinterpret_cast<Neighbours<T, Width>*>(to + c) = written;
  });
}

template <class T>
__global__ void combine_rows(Matrix<const T> in, const std::int64_t* offsets, const Contribution* contributions,
                             std::int64_t cols, Matrix<T> out, bool accumulate) {
  T* to = out.row(blockIdx.x);
  const std::int64_t first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
  const bool wide = is_on_16(to) && is_on_16(in.data) && in.stride % piece<T> == 0;
  for_columns<piece<T>>(cols, wide, [&]<int Width>(std::int64_t c) {
    Sums<Width> sums;
    if (accumulate) sums.add(1, to + c);
    for (std::int64_t i = first; i < last; ++i) sums.add(contributions[i].weight, in.row(contributions[i].row) + c);
    sums.write(to + c);
  });
}

/// Block r: row r, unless it is only there to fill up.
template <class T>
__global__ void sum_parts(const RowSums::Row* rows, const RowSums::Part* parts, std::int64_t cols, bool accumulate) {
  const RowSums::Row row = rows[blockIdx.x];
  if (row.to == nullptr) return;
  T* to = reinterpret_cast<T*>(row.to);
  bool wide = is_on_16(to);
  for (int i = row.first; i < row.last; ++i) wide = wide && is_on_16(parts[i].from);
  for_columns<piece<T>>(cols, wide, [&]<int Width>(std::int64_t c) {
    Sums<Width> sums;
    if (accumulate) sums.add(1, to + c);
    for (int i = row.first; i < row.last; ++i) {
      sums.add(parts[i].weight, reinterpret_cast<const T*>(parts[i].from) + c);
      if (accumulate) sums.template round<T>();
    }
    sums.write(to + c);
  });
}

/// x += the weighted sum of a row's choices, which lie in `in` where `place` says.
template <class T>
__global__ void add_choices(Matrix<const T> in, const std::int32_t* place, const float* weights, int top_k,
                            float factor, std::int64_t cols, Matrix<T> x) {
  place += std::int64_t{blockIdx.x} * top_k;
  weights += std::int64_t{blockIdx.x} * top_k;
  if (place[0] < 0) return;  // empty places are last
  T* to = x.row(blockIdx.x);
  const bool wide = is_on_16(to) && is_on_16(in.data) && in.stride % piece<T> == 0;
  for_columns<piece<T>>(cols, wide, [&]<int Width>(std::int64_t c) {
    Sums<Width> sums;
    for (int i = 0; i < top_k && place[i] >= 0; ++i) sums.add(weights[i] * factor, in.row(place[i]) + c);
    sums.template round<T>();
    Sums<Width> all;
    all.add(1, to + c);
    for (int i = 0; i < Width; ++i) all.x[i] += sums.x[i];
    all.write(to + c);
  });
}

/// Block (r, g) normalises columns [g * width, (g + 1) * width) of row r; with `centred` their mean is taken off first.
/// A thread has every so many-th piece of the columns, however they are read.
template <class T>
__global__ void normalise(Matrix<const T> in, const T* weight, const T* bias, std::int64_t width, float epsilon,
                          bool centred, Matrix<T> out) {
  const T* from = in.row(blockIdx.x) + std::int64_t{blockIdx.y} * width;
  T* to = out.row(blockIdx.x) + std::int64_t{blockIdx.y} * width;
  const bool wide = width % piece<T> == 0 && is_on_16(from) && is_on_16(to) && is_on_16(weight) && is_on_16(bias);
  using Numbers = Neighbours<T, piece<T>>;
  const auto read = [&](const T* row, std::int64_t first, Numbers& numbers) {
    if (wide) {
      numbers = neighbours<piece<T>>(row + first);
    } else {
#pragma unroll
      for (int i = 0; i < piece<T>; ++i) numbers.x[i] = first + i < width ? row[first + i] : from_float<T>(0);
    }
  };
  const auto for_pieces = [&](const auto& each) {  // each(column, numbers from there on, how many; zeros follow)
    for (std::int64_t first = threadIdx.x * piece<T>; first < width; first += row_threads * piece<T>) {
      Numbers numbers;
      read(from, first, numbers);
      each(first, numbers, static_cast<int>(min(width - first, std::int64_t{piece<T>})));
    }
  };
  float mean = 0;
  if (centred) {
    for_pieces([&](std::int64_t, const Numbers& numbers, int) {
#pragma unroll
      for (int i = 0; i < piece<T>; ++i) mean += to_float(numbers.x[i]);
    });
    mean = block_sum<row_threads>(mean) / static_cast<float>(width);
  }
  float squares = 0;
  for_pieces([&](std::int64_t, const Numbers& numbers, int count) {
#pragma unroll
    for (int i = 0; i < piece<T>; ++i) {
      const float x = i < count ? to_float(numbers.x[i]) - mean : 0.0F;
      squares += x * x;
    }
  });
  const float factor = 1.0F / sqrtf(block_sum<row_threads>(squares) / static_cast<float>(width) + epsilon);
  for_pieces([&](std::int64_t first, const Numbers& numbers, int count) {
    Numbers factors, shifts, written;
    read(weight, first, factors);
    if (bias != nullptr) read(bias, first, shifts);
#pragma unroll
    for (int i = 0; i < piece<T>; ++i) {
      const float x = (to_float(numbers.x[i]) - mean) * factor * to_float(factors.x[i]);
      written.x[i] = from_float<T>(bias == nullptr ? x : x + to_float(shifts.x[i]));
    }
    if (wide) {
      *reinterpret_cast<Numbers*>(to + first) = written;
    } else {
#pragma unroll
      for (int i = 0; i < piece<T>; ++i) {
        if (i < count) to[first + i] = written.x[i];
      }
    }
  });
}

template <class T>
__global__ void bias_rows(Matrix<T> x, const T* bias, std::int64_t cols) {
  T* row = x.row(blockIdx.x);
  for (std::int64_t c = threadIdx.x; c < cols; c += row_threads)
    row[c] = from_float<T>(to_float(row[c]) + to_float(bias[c]));
}

template <class T>
__global__ void add_rows(Matrix<const T> in, float factor, std::int64_t cols, Matrix<T> out) {
  const T* from = in.row(blockIdx.x);
  T* to = out.row(blockIdx.x);
  for_columns<piece<T>>(cols, is_on_16(from) && is_on_16(to), [&]<int Width>(std::int64_t c) {
    Sums<Width> sums;
    sums.add(1, to + c);
    sums.add(factor, from + c);
    sums.write(to + c);
  });
}

template <class T>
__global__ void scale_rows(Matrix<T> x, float factor, std::int64_t cols) {
  T* row = x.row(blockIdx.x);
  for (std::int64_t c = threadIdx.x; c < cols; c += row_threads) row[c] = from_float<T>(to_float(row[c]) * factor);
}

template <class T>
__global__ void clamp_rows(Matrix<T> x, float limit, std::int64_t cols) {
  T* row = x.row(blockIdx.x);
  for (std::int64_t c = threadIdx.x; c < cols; c += row_threads) {
    const float value = to_float(row[c]);
    row[c] = from_float<T>(value < -limit ? -limit : value > limit ? limit : value);  // NaN stays NaN
  }
}

struct RotaryCall {
  const float* inverse_frequencies;
  std::int64_t half;
  std::int64_t head_dim;
  std::int64_t heads;
  float scale;
  bool interleaved;
  bool operator==(const RotaryCall&) const = default;
};

template <class T>
__global__ void rotate(Matrix<T> x, const std::int64_t* positions, RotaryCall call) {
  T* row = x.row(blockIdx.x);
  const auto position = static_cast<float>(positions[blockIdx.x]);
  for (std::int64_t i = threadIdx.x; i < call.heads * call.half; i += row_threads) {
    const std::int64_t pair = i % call.half;
    const float angle = position * call.inverse_frequencies[pair];
    const float cosine = cosf(angle) * call.scale;
    const float sine = sinf(angle) * call.scale;
    T* first = row + i / call.half * call.head_dim + (call.interleaved ? 2 * pair : pair);
    T* second = first + (call.interleaved ? 1 : call.half);
    const float a = to_float(*first);
    const float b = to_float(*second);
    *first = from_float<T>(a * cosine - b * sine);
    *second = from_float<T>(b * cosine + a * sine);
  }
}

/// out = factor * sigmoid(logit) * in
template <class T>
__global__ void gate_by_logit(Matrix<const T> in, const float* logits, float factor, std::int64_t columns,
                              Matrix<T> out) {
  const float weight = factor * (1.0F / (1.0F + expf(-logits[blockIdx.x])));
  const T* from = in.row(blockIdx.x);
  T* to = out.row(blockIdx.x);
  for (std::int64_t c = threadIdx.x; c < columns; c += row_threads) to[c] = from_float<T>(weight * to_float(from[c]));
}

unsigned rows_of(const Tensor& tensor) {
  return static_cast<unsigned>(tensor.rows);
}

}  // namespace

void CudaDevice::gather(const Tensor& table, std::span<const std::int32_t> rows, const Tensor& out) {
  require_shape(out, options_.activations, static_cast<std::int64_t>(rows.size()), table.cols, "gather: the output");
  require(std::ranges::all_of(rows, [&](std::int32_t row) { return row >= 0 && row < table.rows; }),
          "gather: a row is outside the table");
  const std::int32_t* on_device = rows_.put(rows);
  with_type(table.type, [&]<class Table>(Table) {
    with_type(out.type, [&]<class T>(T) {
      launch(gather_rows<Table, T>, rows_of(out), row_threads, 0, stream_, as_matrix<const Table>(table), on_device,
             static_cast<const std::int32_t*>(nullptr), table.cols, as_matrix<T>(out));
    });
  });
}

void CudaDevice::gather_listed(const Tensor& in, const std::int32_t* rows, const std::int32_t* count,
                               const Tensor& out) {
  with_type(in.type, [&]<class T>(T) {
    launch(gather_rows<T, T>, rows_of(out), row_threads, 0, stream_, as_matrix<const T>(in), rows, count, in.cols,
           as_matrix<T>(out));
  });
}

void CudaDevice::add_experts(const Tensor& in, const RowGroups& groups, const ExpertSet& set, float factor,
                             const Tensor& x) {
  const auto* cuda = dynamic_cast<const CudaExpertSet*>(&set);
  require(cuda != nullptr, "add_experts: a set of another kind of device");
  const CudaExpertSet& experts = *cuda;
  const DType type = options_.activations;
  require_shape(in, type, in.rows, in.cols, "add_experts: the input");
  require_shape(x, type, in.rows, in.cols, "add_experts: the output");
  require_groups(groups, experts, in);
  if (in.rows == 0) return;
  const std::int64_t pairs = in.rows * groups.top_k;
  const std::int64_t stride = CudaMatrix::stride_of(in.cols);
  const bool slabs = as_cuda_matrix(*experts.any().down).in_slabs();
  const bool by_cublas =
      cublas_ && experts.count() > 1 && by_cublas_.second(std::min<std::int64_t>(pairs, experts.count()), pairs);
  auto* numbers =
      pairs_.get<std::byte>(pairs * stride * (slabs || by_cublas ? 2 : 1) * static_cast<std::int64_t>(size_of(type)));
  const Tensor out{numbers, type, pairs, in.cols, stride};
  if (slabs || by_cublas) {
    const Tensor gathered{numbers + pairs * stride * static_cast<std::int64_t>(size_of(type)), type, pairs, in.cols,
                          stride};
    gather_listed(in, groups.row, groups.first + groups.experts, gathered);
    by_cublas ? groups_by_cublas(gathered, groups, experts, out) : groups_by_wgmma(gathered, groups, experts, out);
  } else {
    groups_by_mma(in, groups, experts, out);
  }
  with_type(type, [&]<class T>(T) {
    launch(add_choices<T>, rows_of(x), row_threads, 0, stream_, as_matrix<const T>(out), groups.place, groups.weight,
           groups.top_k, factor, x.cols, as_matrix<T>(x));
  });
}

void CudaDevice::combine(const Tensor& in, std::span<const std::int64_t> offsets,
                         std::span<const Contribution> contributions, const Tensor& out, bool accumulate) {
  const DType type = options_.activations;
  require_shape(in, type, in.rows, out.cols, "combine: the input");
  require_shape(out, type, static_cast<std::int64_t>(offsets.size()) - 1, out.cols, "combine: the output");
  require_contributions(offsets, contributions, in.rows);
  const std::int64_t* first = rows_.put(offsets);
  const Contribution* parts = more_rows_.put(contributions);
  with_type(type, [&]<class T>(T) {
    launch(combine_rows<T>, rows_of(out), row_threads, 0, stream_, as_matrix<const T>(in), first, parts, out.cols,
           as_matrix<T>(out), accumulate);
  });
}

void CudaDevice::sum_rows(const RowSums& sums, std::int64_t cols, bool accumulate) {
  require_sums(sums);
  const std::int64_t count = room_for(std::ssize(sums.rows));
  // Both lists in one, which is sent at once.
  const std::int64_t first_part = count * static_cast<std::int64_t>(sizeof(RowSums::Row));
  const std::int64_t parts_bytes = room_for(std::ssize(sums.parts)) * static_cast<std::int64_t>(sizeof(RowSums::Part));
  std::vector<std::byte> lists(static_cast<std::size_t>(first_part + parts_bytes));
  std::ranges::copy(std::as_bytes(std::span(sums.rows)), lists.begin());
  std::ranges::copy(std::as_bytes(std::span(sums.parts)), lists.begin() + first_part);
  const std::byte* on_device = rows_.put(std::span<const std::byte>(lists));
  const auto* rows = reinterpret_cast<const RowSums::Row*>(on_device);
  const auto* parts = reinterpret_cast<const RowSums::Part*>(on_device + first_part);
  with_type(options_.activations, [&]<class T>(T) {
    launch(sum_parts<T>, static_cast<unsigned>(count), row_threads, 0, stream_, rows, parts, cols, accumulate);
  });
}

void CudaDevice::rms_norm(const Tensor& in, const Tensor& weight, float epsilon, const Tensor& out) {
  const DType type = options_.activations;
  require_shape(weight, type, 1, weight.cols, "rms_norm: the weight");
  require(weight.cols > 0 && in.cols % weight.cols == 0, "rms_norm: the input is no multiple of the weight");
  require_shape(in, type, in.rows, in.cols, "rms_norm: the input");
  require_shape(out, type, in.rows, in.cols, "rms_norm: the output");
  const dim3 grid(rows_of(in), static_cast<unsigned>(in.cols / weight.cols));
  with_type(type, [&]<class T>(T) {
    launch(normalise<T>, grid, row_threads, 0, stream_, as_matrix<const T>(in), as_matrix<const T>(weight).data,
           static_cast<const T*>(nullptr), weight.cols, epsilon, false, as_matrix<T>(out));
  });
}

void CudaDevice::layer_norm(const Tensor& in, const Tensor& weight, const Tensor& bias, float epsilon,
                            const Tensor& out) {
  const DType type = options_.activations;
  require_shape(weight, type, 1, in.cols, "layer_norm: the weight");
  if (bias.data != nullptr) require_shape(bias, type, 1, in.cols, "layer_norm: the bias");
  require_shape(in, type, in.rows, in.cols, "layer_norm: the input");
  require_shape(out, type, in.rows, in.cols, "layer_norm: the output");
  with_type(type, [&]<class T>(T) {
    launch(normalise<T>, rows_of(in), row_threads, 0, stream_, as_matrix<const T>(in), as_matrix<const T>(weight).data,
           as_matrix<const T>(bias).data, in.cols, epsilon, true, as_matrix<T>(out));
  });
}

void CudaDevice::add_bias(const Tensor& x, const Tensor& bias) {
  const DType type = options_.activations;
  require_shape(x, type, x.rows, x.cols, "add_bias");
  require_shape(bias, type, 1, x.cols, "add_bias: the bias");
  with_type(type, [&]<class T>(T) {
    launch(bias_rows<T>, rows_of(x), row_threads, 0, stream_, as_matrix<T>(x), as_matrix<const T>(bias).data, x.cols);
  });
}

void CudaDevice::add(const Tensor& in, float factor, const Tensor& out) {
  const DType type = options_.activations;
  require_shape(in, type, out.rows, out.cols, "add: the input");
  require_shape(out, type, out.rows, out.cols, "add: the output");
  with_type(type, [&]<class T>(T) {
    launch(add_rows<T>, rows_of(out), row_threads, 0, stream_, as_matrix<const T>(in), factor, out.cols,
           as_matrix<T>(out));
  });
}

void CudaDevice::scale(const Tensor& x, float factor) {
  require_shape(x, options_.activations, x.rows, x.cols, "scale");
  with_type(x.type, [&]<class T>(T) {
    launch(scale_rows<T>, rows_of(x), row_threads, 0, stream_, as_matrix<T>(x), factor, x.cols);
  });
}

void CudaDevice::gate(const Tensor& x, const PackedMatrix& packed, float factor, const Tensor& in, const Tensor& out) {
  const CudaMatrix& weight = as_cuda_matrix(packed);
  require_gate(x, weight, options_.activations, in, out);
  float* logits = hidden_.get<float>(x.rows);
  multiply(std::array{Product{x, &weight, {reinterpret_cast<std::byte*>(logits), DType::f32, x.rows, 1, 1}}}, false);
  with_type(in.type, [&]<class T>(T) {
    launch(gate_by_logit<T>, rows_of(in), row_threads, 0, stream_, as_matrix<const T>(in),
           static_cast<const float*>(logits), factor, in.cols, as_matrix<T>(out));
  });
}

void CudaDevice::clamp(const Tensor& x, float limit) {
  require_shape(x, options_.activations, x.rows, x.cols, "clamp");
  with_type(x.type, [&]<class T>(T) {
    launch(clamp_rows<T>, rows_of(x), row_threads, 0, stream_, as_matrix<T>(x), limit, x.cols);
  });
}

void CudaDevice::rotary(const Tensor& x, int head_dim, const Rotary& rotary, std::span<const std::int64_t> positions) {
  const auto half = static_cast<std::int64_t>(rotary.inverse_frequencies.size());
  require_shape(x, options_.activations, static_cast<std::int64_t>(positions.size()), x.cols, "rotary: the rows");
  require(head_dim > 0 && x.cols % head_dim == 0, "rotary: the columns are no whole heads");
  require(2 * half <= head_dim, "rotary: more frequencies than pairs in a head");
  if (half == 0) return;
  const std::int64_t* at = positions_.keep(positions);
  const RotaryCall call{frequencies_.keep(std::span<const float>(rotary.inverse_frequencies)),
                        half,
                        head_dim,
                        x.cols / head_dim,
                        rotary.scale,
                        rotary.interleaved};
  with_type(x.type,
            [&]<class T>(T) { launch(rotate<T>, rows_of(x), row_threads, 0, stream_, as_matrix<T>(x), at, call); });
}

}  // namespace coterie
