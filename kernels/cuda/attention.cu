// A GPU's attention over the paged cache, split over positions (Flash-Decoding): a block takes a few queries that share
// keys and one part of the positions, a second kernel adds the parts up. Parts begin at multiples of their size, so
// that a row's sums don't depend on the chunk that it came in.
//
// In a block of the cache K lies as (columns / 8, positions, 8), so that neighbouring threads, each with a position of
// its own, read neighbouring bytes; V, and rows that are key and value in one, as (positions, columns).
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

namespace coterie {
namespace {

constexpr unsigned attend_threads = 128;
constexpr int part_positions = 256;
constexpr int most_queries = 16;  ///< of a block
constexpr int at_once = 4;        ///< reads of a thread that are under way, 16 bytes each: they keep the memory busy
constexpr std::size_t most_shared = std::size_t{48} << 10;
constexpr std::int64_t most_partial = std::int64_t{64} << 20;  ///< floats that lie between the two kernels

/// Where the numbers of a position are in a block of the cache.
struct Layout {
  int shift;                  ///< 2^shift columns lie together
  std::int64_t group_stride;  ///< from such columns to the next
  std::int64_t token_stride;
  [[nodiscard]] __device__ std::int64_t at(std::int64_t token, std::int64_t column) const {
    return (column >> shift) * group_stride + token * token_stride + (column & ((1 << shift) - 1));
  }
  bool operator==(const Layout&) const = default;
};

/// Rows of one sequence that a block attends for, with some or all of the heads that share one of K and V.
struct Tile {
  std::int64_t row;       ///< of the call, the first
  std::int64_t position;  ///< the first row's
  std::int64_t slot;      ///< of the first row's partial sums
  std::int32_t rows;
  std::int32_t first_block;  ///< among the tables of all sequences
};

/// A row that partial sums are of.
struct Slot {
  std::int64_t row;
  std::int64_t position;
};

template <class T>
struct AttendCall {
  Matrix<const T> q;       ///< (rows, heads * q_columns)
  Matrix<const T> q_more;  ///< the query's further columns (rows, heads * more_columns), of latent attention
  const T* k;
  const T* v;
  Layout k_layout;
  std::int64_t v_stride;       ///< from a position's values to the next one's
  std::int64_t block_numbers;  ///< of a block of the cache
  int block_tokens;
  const std::int32_t* blocks;
  const Tile* tiles;
  int heads, kv_heads;
  int q_columns, more_columns, v_columns;
  int heads_a_block;  ///< of those that share one of K and V
  int parts;
  bool aligned;  ///< a head's columns are read by eights
  float scale;
  int window;
  float* sums;     ///< (slots, heads, parts, v_columns)
  float* largest;  ///< (slots, heads, parts)
  float* weights;  ///< the same: sum of exp(score - largest)
  bool operator==(const AttendCall&) const = default;
};

/// Scores of one position for all the block's queries, in order of columns.
template <int Width, int Queries, class T>
__device__ void score_position(const AttendCall<T>& call, const T* key, std::int64_t token, int kv_head, const float* q,
                               float* scores) {
  const int columns = call.q_columns + call.more_columns;
  const std::int64_t first = std::int64_t{kv_head} * columns;
  float sums[Queries] = {};
  for (int some = 0; some < columns; some += at_once * Width) {
    Neighbours<T, Width> keys[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int c = some + i * Width;
      if (c < columns) {
        keys[i] = neighbours<Width>(key + call.k_layout.at(token, first + c));
      }
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int c = some + i * Width;
      if (c >= columns) break;
#pragma unroll
      for (int query = 0; query < Queries; ++query) {
        const auto of = neighbours<Width>(q + query * columns + c);
#pragma unroll
        for (int n = 0; n < Width; ++n) sums[query] = fmaf(of.x[n], to_float(keys[i].x[n]), sums[query]);
      }
    }
  }
  for (int query = 0; query < Queries; ++query) scores[query] = sums[query] * call.scale;
}

/// sums (queries, v_columns) = the weighted values of positions [first, last), whose numbers begin at `places`. Threads
/// share the columns, and those left over the positions: group g takes every so many-th from `g` on, and the groups'
/// sums are added in their order.
template <int Width, int Queries, class T>
__device__ void add_values(const AttendCall<T>& call, const T* values, const std::int64_t* places, const float* weights,
                           int first, int last, float* sums) {
  const int chunks = call.v_columns / Width;
  const int across = min(chunks, static_cast<int>(attend_threads));
  const int groups = static_cast<int>(attend_threads) / across;
  const int group = static_cast<int>(threadIdx.x) / across;
  for (int some = 0; some < chunks; some += across) {
    const int chunk = some + static_cast<int>(threadIdx.x) % across;
    const bool takes_part = group < groups && chunk < chunks;
    float mine[Queries][Width] = {};
    for (int i = first / groups * groups + group; takes_part && i < last; i += at_once * groups) {
      Neighbours<T, Width> read[at_once];
#pragma unroll
      for (int n = 0; n < at_once; ++n) {
        const int position = i + n * groups;
        if (position < last) {
          read[n] = neighbours<Width>(values + places[position] + chunk * Width);
        }
      }
#pragma unroll
      for (int n = 0; n < at_once; ++n) {
        const int position = i + n * groups;
        if (position >= last) break;
        const auto of = neighbours<Queries>(weights + position * Queries);
#pragma unroll
        for (int query = 0; query < Queries; ++query) {
          if (of.x[query] == 0) continue;  // what isn't visible may be anything, also NaN
#pragma unroll
          for (int c = 0; c < Width; ++c) mine[query][c] = fmaf(of.x[query], to_float(read[n].x[c]), mine[query][c]);
        }
      }
    }
    for (int g = 0; g < groups; ++g) {
      for (int query = 0; takes_part && g == group && query < Queries; ++query) {
        float* to = sums + query * call.v_columns + chunk * Width;
        for (int c = 0; c < Width; ++c) to[c] = g == 0 ? mine[query][c] : to[c] + mine[query][c];
      }
      __syncthreads();
    }
  }
}

/// Block (tile, K/V head and share of its heads, part): sums of `Queries` queries over the part's positions.
template <class T, int Queries>
__global__ void __launch_bounds__(attend_threads) attend_part(AttendCall<T> call) {
  const Tile tile = call.tiles[blockIdx.x];
  const int group = call.heads / call.kv_heads;
  const int shares = (group + call.heads_a_block - 1) / call.heads_a_block;
  const int kv_head = static_cast<int>(blockIdx.y) / shares;
  const int share_first = static_cast<int>(blockIdx.y) % shares * call.heads_a_block;
  const int heads = min(call.heads_a_block, group - share_first);
  const int first_head = kv_head * group + share_first;
  const int queries = tile.rows * heads;  // query i is of row i / heads, head i % heads
  const std::int64_t begin = std::int64_t{blockIdx.z} * part_positions;
  const std::int64_t last_position = tile.position + tile.rows - 1;
  const std::int64_t seen_first = call.window > 0 ? max(std::int64_t{0}, tile.position - call.window + 1) : 0;
  if (begin > last_position || begin + part_positions <= seen_first) return;  // the whole block
  const int positions = static_cast<int>(min(std::int64_t{part_positions}, last_position + 1 - begin));

  const int columns = call.q_columns + call.more_columns;
  float* scores = dynamic_shared_floats();                                            // (part_positions, Queries)
  auto* places = reinterpret_cast<std::int64_t*>(scores + part_positions * Queries);  // (part_positions): of values
  auto* q = reinterpret_cast<float*>(places + part_positions);                        // (Queries, columns)
  const T* values = call.v + std::int64_t{kv_head} * call.v_columns;
  for (int i = static_cast<int>(threadIdx.x); i < Queries * columns; i += attend_threads) {
    const int query = i / columns;
    const int c = i % columns;
    float x = 0;
    if (query < queries) {
      const std::int64_t row = tile.row + query / heads;
      const int head = first_head + query % heads;
      x = c < call.q_columns
              ? to_float(call.q.row(row)[std::int64_t{head} * call.q_columns + c])
              : to_float(call.q_more.row(row)[std::int64_t{head} * call.more_columns + c - call.q_columns]);
    }
    q[i] = x;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < positions; i += attend_threads) {
    const std::int64_t position = begin + i;
    const std::int64_t token = position % call.block_tokens;
    const std::int64_t block = call.blocks[tile.first_block + position / call.block_tokens] * call.block_numbers;
    places[i] = block + token * call.v_stride;
    if (call.aligned) {
      score_position<8, Queries>(call, call.k + block, token, kv_head, q, scores + i * Queries);
    } else {
      score_position<1, Queries>(call, call.k + block, token, kv_head, q, scores + i * Queries);
    }
  }
  __syncthreads();

  // A warp turns a query's scores into weights.
  const unsigned lane = threadIdx.x % 32;
  for (int query = static_cast<int>(threadIdx.x / 32); query < queries; query += attend_threads / 32) {
    const std::int64_t position = tile.position + query / heads;
    const std::int64_t from = call.window > 0 ? max(std::int64_t{0}, position - call.window + 1) : 0;
    const int first = static_cast<int>(min(max(from - begin, std::int64_t{0}), std::int64_t{positions}));
    const int last = static_cast<int>(min(max(position + 1 - begin, std::int64_t{first}), std::int64_t{positions}));
    float* mine = scores + query;
    float largest = -INFINITY;
    for (int i = static_cast<int>(lane); i < positions; i += 32) {
      if (i >= first && i < last) largest = fmaxf(largest, mine[i * Queries]);
    }
    largest = warp_max(largest);
    float sum = 0;
    for (int i = static_cast<int>(lane); i < positions; i += 32) {
      const float weight = i >= first && i < last ? expf(mine[i * Queries] - largest) : 0;
      mine[i * Queries] = weight;
      sum += weight;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      const std::int64_t slot = tile.slot + query / heads;
      const std::int64_t at = (slot * call.heads + first_head + query % heads) * call.parts + blockIdx.z;
      call.largest[at] = largest;
      call.weights[at] = sum;
    }
  }
  __syncthreads();

  float* sums = q;  // which are scores by now
  const int first = static_cast<int>(max(seen_first - begin, std::int64_t{0}));
  if (call.aligned) {
    add_values<8, Queries>(call, values, places, scores, first, positions, sums);
  } else {
    add_values<1, Queries>(call, values, places, scores, first, positions, sums);
  }
  for (int i = static_cast<int>(threadIdx.x); i < queries * call.v_columns; i += attend_threads) {
    const int query = i / call.v_columns;
    const std::int64_t slot = tile.slot + query / heads;
    const std::int64_t at = (slot * call.heads + first_head + query % heads) * call.parts + blockIdx.z;
    call.sums[at * call.v_columns + i % call.v_columns] = sums[i];
  }
}

template <class T>
struct AddCall {
  const float* sums;
  const float* largest;
  const float* weights;
  const Slot* slots;
  const T* sinks;  ///< (heads), or none
  int heads, parts, v_columns, window;
  Matrix<T> out;
  bool operator==(const AddCall&) const = default;
};

/// Block (slot, head): adds up its parts, in their order.
template <class T>
__global__ void add_parts(AddCall<T> call) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * call.heads + blockIdx.y) * call.parts;
  const Slot slot = call.slots[blockIdx.x];
  const std::int64_t from = call.window > 0 ? max(std::int64_t{0}, slot.position - call.window + 1) : 0;
  const int begin = static_cast<int>(from / part_positions);
  const int end = static_cast<int>(slot.position / part_positions) + 1;
  const float sink = call.sinks == nullptr ? -INFINITY : to_float(call.sinks[blockIdx.y]);
  float largest = sink;
  for (int part = begin; part < end; ++part) largest = fmaxf(largest, call.largest[first + part]);
  float total = expf(sink - largest);
  for (int part = begin; part < end; ++part) {
    total += call.weights[first + part] * expf(call.largest[first + part] - largest);
  }
  T* out = call.out.row(slot.row) + std::int64_t{blockIdx.y} * call.v_columns;
  for (int c = static_cast<int>(threadIdx.x); c < call.v_columns; c += attend_threads) {
    float sum = 0;
    for (int part = begin; part < end; ++part) {
      sum += call.sums[(first + part) * call.v_columns + c] * expf(call.largest[first + part] - largest);
    }
    out[c] = from_float<T>(sum / total);
  }
}

/// Where a row of K and V goes: the index of its position among all of the cache's, or -1.
template <class T>
__global__ void store_rows(Matrix<const T> rows, const std::int64_t* places, std::int64_t columns, int block_tokens,
                           Layout layout, T* cache) {
  const std::int64_t place = places[blockIdx.x];
  if (place < 0) return;
  T* block = cache + place / block_tokens * block_tokens * columns;
  for (std::int64_t c = threadIdx.x; c < columns; c += attend_threads) {
    block[layout.at(place % block_tokens, c)] = rows.row(blockIdx.x)[c];
  }
}

std::size_t shared_bytes(int queries, int columns) {
  return static_cast<std::size_t>(queries) * static_cast<std::size_t>(columns + part_positions) * sizeof(float) +
         part_positions * sizeof(std::int64_t);
}

Layout key_layout(std::int64_t columns, int tokens) {
  const std::int64_t width = std::gcd(columns, std::int64_t{8});
  return {std::countr_zero(static_cast<unsigned>(width)), tokens * width, width};
}

/// One row after the other.
Layout row_layout(std::int64_t columns) {
  return {3, 8, columns};
}

/// At least `count`, and few different numbers: what steps ask for rarely differs then.
std::int64_t roomy(std::int64_t count) {
  const auto step =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(count)) / 4));
  return (count + step - 1) / step * step;
}

/// call.operator()<Queries>() with the least power of two that is at least `queries`.
template <int Queries = 1, class Call>
void with_queries(int queries, const Call& call) {
  if constexpr (Queries < most_queries) {
    if (queries > Queries) return with_queries<2 * Queries>(queries, call);
  }
  call.template operator()<Queries>();
}

}  // namespace

/// Both kinds of attention.
struct CudaDevice::Attention {
  Tensor q, q_more;
  Layout k_layout;
  std::int64_t v_stride;
  const std::byte* v;
  int heads, kv_heads, q_columns, more_columns, v_columns;
  float scale;
  int window;
  const std::byte* sinks;
  Tensor out;
};

void CudaDevice::write_kv(const Tensor& k, const Tensor& v, std::span<const SequenceRows> sequences,
                          const KvCache& cache) {
  const DType type = options_.activations;
  require_sequences(sequences, cache, k.rows);
  require_shape(k, type, k.rows, k.cols, "write_kv: K");
  if (v.cols != 0) require_shape(v, type, k.rows, k.cols, "write_kv: V");
  const std::int64_t tokens = cache.block_tokens;
  std::vector<std::int64_t> places(static_cast<std::size_t>(k.rows), -1);
  for (const SequenceRows& sequence : sequences) {
    for (std::int64_t r = 0; r < sequence.rows; ++r) {
      const std::int64_t position = sequence.first_position + r;
      const std::int64_t block = sequence.blocks[static_cast<std::size_t>(position / tokens)];
      places[static_cast<std::size_t>(sequence.first_row + r)] = block * tokens + position % tokens;
    }
  }
  const std::int64_t* on_device = places_.keep(std::span<const std::int64_t>(places));
  with_type(type, [&]<class T>(T) {
    const auto store = [&](const Tensor& rows, const Layout& layout, std::byte* to) {
      launch(store_rows<T>, static_cast<unsigned>(rows.rows), attend_threads, 0, stream_, as_matrix<const T>(rows),
             on_device, rows.cols, cache.block_tokens, layout, reinterpret_cast<T*>(to));
    };
    store(k, v.cols == 0 ? row_layout(k.cols) : key_layout(k.cols, cache.block_tokens), cache.k);
    if (v.cols != 0) store(v, row_layout(v.cols), cache.v);
  });
}

void CudaDevice::attention(const Tensor& q, const KvCache& cache, std::span<const SequenceRows> sequences,
                           const AttentionShape& shape, const Tensor& out, const Tensor& sinks) {
  const DType type = options_.activations;
  require_attention(shape, cache);
  require_sequences(sequences, cache, q.rows);
  require_shape(q, type, q.rows, std::int64_t{shape.heads} * shape.head_dim, "attention: the queries");
  require_shape(out, type, q.rows, q.cols, "attention: the output");
  if (sinks.data != nullptr) require_shape(sinks, type, 1, shape.heads, "attention: the sinks");
  const std::int64_t columns = std::int64_t{shape.kv_heads} * shape.head_dim;
  attend({q,
          {},
          key_layout(columns, cache.block_tokens),
          columns,
          cache.v,
          shape.heads,
          shape.kv_heads,
          shape.head_dim,
          0,
          shape.head_dim,
          shape.scale,
          shape.window,
          sinks.data,
          out},
         sequences, cache);
}

void CudaDevice::latent_attention(const Tensor& q_latent, const Tensor& q_rope, const KvCache& cache,
                                  std::span<const SequenceRows> sequences, const LatentShape& shape,
                                  const Tensor& out) {
  const DType type = options_.activations;
  require(shape.heads >= 1 && shape.latent >= 1 && shape.rope >= 0, "latent_attention: the shape makes no sense");
  require_sequences(sequences, cache, q_latent.rows);
  require_shape(q_latent, type, q_latent.rows, std::int64_t{shape.heads} * shape.latent,
                "latent_attention: the latent queries");
  require_shape(q_rope, type, q_latent.rows, std::int64_t{shape.heads} * shape.rope,
                "latent_attention: the rotated queries");
  require_shape(out, type, q_latent.rows, q_latent.cols, "latent_attention: the output");
  const Layout layout = row_layout(std::int64_t{shape.latent} + shape.rope);
  attend({q_latent, q_rope, layout, layout.token_stride, cache.k, shape.heads, 1, shape.latent, shape.rope,
          shape.latent, shape.scale, 0, nullptr, out},
         sequences, cache);
}

void CudaDevice::attend(const Attention& call, std::span<const SequenceRows> sequences, const KvCache& cache) {
  const int columns = call.q_columns + call.more_columns;
  const int group = call.heads / call.kv_heads;
  // As many queries a block as shared memory holds: heads first, then rows.
  int fit = most_queries;
  while (fit > 1 && shared_bytes(fit, columns) > most_shared) fit /= 2;
  require(shared_bytes(1, columns) <= most_shared, "attention: a head is too wide for this device");
  const int heads_a_block = std::min(group, fit);
  const int rows_a_block = fit / heads_a_block;

  std::vector<std::int32_t> tables;
  std::vector<Tile> tiles;
  std::vector<Slot> slots;
  int most_rows = 0;
  for (const SequenceRows& sequence : sequences) {
    const auto first_block = static_cast<std::int32_t>(tables.size());
    tables.insert(tables.end(), sequence.blocks.begin(), sequence.blocks.end());
    for (std::int64_t r = 0; r < sequence.rows; r += rows_a_block) {
      const auto rows = static_cast<std::int32_t>(std::min<std::int64_t>(rows_a_block, sequence.rows - r));
      most_rows = std::max<int>(most_rows, rows);
      tiles.push_back({sequence.first_row + r, sequence.first_position + r, static_cast<std::int64_t>(slots.size()),
                       rows, first_block});
      for (std::int32_t i = 0; i < rows; ++i) slots.push_back({tiles.back().row + i, tiles.back().position + i});
    }
  }
  if (tiles.empty()) return;
  std::int64_t longest = 0;
  for (const Slot& slot : slots) longest = std::max(longest, slot.position + 1);
  const std::int64_t parts = roomy((longest + part_positions - 1) / part_positions);
  const std::int64_t slot_numbers = call.heads * parts * (call.v_columns + 2);
  const std::int64_t most_slots = std::max<std::int64_t>(rows_a_block, most_partial / slot_numbers);
  tables.resize(static_cast<std::size_t>(roomy(std::ssize(tables) + 63)));
  const std::int32_t* blocks = tables_.keep(std::span<const std::int32_t>(tables));
  const Slot* all_slots = slots_.keep(std::span<const Slot>(slots));
  const auto shares = static_cast<unsigned>((group + heads_a_block - 1) / heads_a_block);
  const int key_columns = call.kv_heads * columns;

  // As many tiles at a time as there is memory for partial sums.
  for (std::size_t first = 0; first < tiles.size();) {
    const std::int64_t first_slot = tiles[first].slot;
    std::size_t last = first;
    std::int64_t count = 0;
    for (; last < tiles.size() && count + tiles[last].rows <= most_slots; ++last) {
      tiles[last].slot -= first_slot;
      count += tiles[last].rows;
    }
    const std::int64_t sums = count * call.heads * parts;
    float* partial = partial_.get<float>(sums * (call.v_columns + 2));
    const Tile* some_tiles = tiles_.keep(std::span<const Tile>(tiles).subspan(first, last - first));
    with_type(options_.activations, [&]<class T>(T) {
      const AttendCall<T> attend{as_matrix<const T>(call.q),
                                 as_matrix<const T>(call.q_more),
                                 reinterpret_cast<const T*>(cache.k),
                                 reinterpret_cast<const T*>(call.v),
                                 call.k_layout,
                                 call.v_stride,
                                 std::int64_t{cache.block_tokens} * key_columns,
                                 cache.block_tokens,
                                 blocks,
                                 some_tiles,
                                 call.heads,
                                 call.kv_heads,
                                 call.q_columns,
                                 call.more_columns,
                                 call.v_columns,
                                 heads_a_block,
                                 static_cast<int>(parts),
                                 columns % 8 == 0 && call.v_columns % 8 == 0,
                                 call.scale,
                                 call.window,
                                 partial,
                                 partial + sums * call.v_columns,
                                 partial + sums * (call.v_columns + 1)};
      const dim3 grid(static_cast<unsigned>(last - first), static_cast<unsigned>(call.kv_heads) * shares,
                      static_cast<unsigned>(parts));
      with_queries(most_rows * heads_a_block, [&]<int Queries>() {
        launch(attend_part<T, Queries>, grid, attend_threads, shared_bytes(Queries, columns), stream_, attend);
      });
      const AddCall<T> add{attend.sums,
                           attend.largest,
                           attend.weights,
                           all_slots + first_slot,
                           reinterpret_cast<const T*>(call.sinks),
                           call.heads,
                           attend.parts,
                           call.v_columns,
                           call.window,
                           as_matrix<T>(call.out)};
      launch(add_parts<T>, dim3(static_cast<unsigned>(count), static_cast<unsigned>(call.heads)), attend_threads, 0,
             stream_, add);
    });
    first = last;
  }
}

}  // namespace coterie
