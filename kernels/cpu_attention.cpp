// The CPU's attention over the paged cache, with a running softmax over tiles of positions (Milakov and Gimelshein,
// arXiv 1805.02867). Tiles begin at multiples of their size, so that a row's sums don't depend on the chunk it came in.
//
// In a block K lies as (kv_heads * head_dim, block_tokens), so that scores of neighbouring positions are computed side
// by side; V as (block_tokens, kv_heads * head_dim).
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace coterie {
namespace {

using Float1 = float __attribute__((vector_size(4)));

constexpr std::int64_t tile_positions = 128;
constexpr std::int64_t tile_queries = 32;

/// Queries of one sequence that share a head of K and V: query i is of row i / group, head i % group of the group.
struct Task {
  const SequenceRows* sequence = nullptr;
  std::int64_t first = 0;
  std::int64_t count = 0;  ///< at most tile_queries
  int kv_head = 0;
};

struct Call {
  Tensor q;
  KvCache cache;
  AttentionShape shape;
  Tensor out;
};

struct Range {
  std::int64_t first = 0;
  std::int64_t last = 0;  ///< one past
};

struct Query {
  const float* q = nullptr;
  float* out = nullptr;  ///< the sum so far, not yet divided
  float largest = -std::numeric_limits<float>::infinity();
  float sum = 0;
  Range visible;  ///< positions
  Range here;     ///< of them in this tile, from the tile's first
};

struct Tile {
  std::array<const float*, tile_positions>
      keys;  ///< of position i at dimension 0; the next dimension is block_tokens on
  std::array<const float*, tile_positions> values;  ///< of position i
};

/// scores[q][i] for Q queries and `Vectors` registers of positions from `position` on; sums over dimensions in order.
template <class V, int Q, int Vectors>
COTERIE_INLINE void score(const Call& call, const Tile& tile, const Query* queries, std::int64_t position,
                          float* scores) {
  const std::int64_t step = call.cache.block_tokens;
  V sums[Q][Vectors] = {};
  const float* keys[Vectors];
  for (int v = 0; v < Vectors; ++v) keys[v] = tile.keys[static_cast<std::size_t>(position + v * lanes<V>)];
  for (std::int64_t d = 0; d < call.shape.head_dim; ++d) {
    V k[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) load(k[v], keys[v] + d * step);
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[q][v] += k[v] * queries[q].q[d];
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int v = 0; v < Vectors; ++v) {
      const V scaled = sums[q][v] * call.shape.scale;
      store(scores + q * tile_positions + position + v * lanes<V>, scaled);
    }
  }
}

template <class V, int Vectors>
COTERIE_INLINE std::int64_t score_positions(const Call& call, const Tile& tile, const Query* queries,
                                            std::int64_t count, std::int64_t position, std::int64_t last,
                                            float* scores) {
  for (; position + Vectors * lanes<V> <= last; position += Vectors * lanes<V>) {
    std::int64_t q = 0;
    for (; q + 4 <= count; q += 4) score<V, 4, Vectors>(call, tile, queries + q, position, scores + q * tile_positions);
    for (; q < count; ++q) score<V, 1, Vectors>(call, tile, queries + q, position, scores + q * tile_positions);
  }
  return position;
}

/// Scores of `positions`, which are whole registers of the tile.
template <class V>
COTERIE_INLINE void score_tile(const Call& call, const Tile& tile, const Query* queries, std::int64_t count,
                               Range positions, float* scores) {
  std::int64_t position = positions.first / lanes<V> * lanes<V>;
  position = score_positions<V, 4>(call, tile, queries, count, position, positions.last, scores);
  score_positions<V, 1>(call, tile, queries, count, position, positions.last, scores);
}

/// Turns scores into weights relative to the largest so far, 0 outside `query.here`; returns what the earlier sum must
/// be multiplied with.
COTERIE_INLINE float weigh(Query& query, float* scores) {
  float largest = query.largest;
  for (std::int64_t i = query.here.first; i < query.here.last; ++i) largest = scores[i] > largest ? scores[i] : largest;
  const std::int64_t first = query.here.first / 16 * 16;
  const std::int64_t last = (query.here.last + 15) / 16 * 16;
  for (std::int64_t i = first; i < query.here.first; ++i) scores[i] = 0;
  for (std::int64_t i = query.here.last; i < last; ++i) scores[i] = 0;
  for (std::int64_t i = query.here.first; i < query.here.last; ++i) scores[i] = fast_exp(scores[i] - largest);
  float sums[16] = {};
  for (std::int64_t i = first; i < last; i += 16) {
    for (int lane = 0; lane < 16; ++lane) sums[lane] += scores[i + lane];
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  const float factor = fast_exp(query.largest - largest);
  query.largest = largest;
  query.sum = query.sum * factor + sums[0];
  return factor;
}

/// out[q] += weights[q][i] * V[i] over `positions`, `Vectors` registers of dimensions from `dimension` on.
template <class V, int Q, int Vectors>
COTERIE_INLINE void add_columns(const Tile& tile, const Query* queries, Range positions, std::int64_t dimension,
                                const float* weights) {
  V sums[Q][Vectors];
  for (int q = 0; q < Q; ++q) {
    for (int v = 0; v < Vectors; ++v) load(sums[q][v], queries[q].out + dimension + v * lanes<V>);
  }
  for (std::int64_t i = positions.first; i < positions.last; ++i) {
    const float* value = tile.values[static_cast<std::size_t>(i)] + dimension;
    V row[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) load(row[v], value + v * lanes<V>);
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[q][v] += row[v] * weights[q * tile_positions + i];
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int v = 0; v < Vectors; ++v) store(queries[q].out + dimension + v * lanes<V>, sums[q][v]);
  }
}

template <class V, int Q>
COTERIE_INLINE void add_values(const Tile& tile, const Query* queries, Range positions, std::int64_t head_dim,
                               const float* weights) {
  if (positions.first >= positions.last) return;
  std::int64_t d = 0;
  for (; d + 4 * lanes<V> <= head_dim; d += 4 * lanes<V>) add_columns<V, Q, 4>(tile, queries, positions, d, weights);
  for (; d + lanes<V> <= head_dim; d += lanes<V>) add_columns<V, Q, 1>(tile, queries, positions, d, weights);
  for (; d < head_dim; ++d) add_columns<Float1, Q, 1>(tile, queries, positions, d, weights);
}

/// Four queries together where all of them see, each by itself before and after.
template <class V>
COTERIE_INLINE void add_values_of_four(const Tile& tile, const Query* queries, std::int64_t head_dim,
                                       const float* weights) {
  Range common = queries[0].here;
  for (int q = 1; q < 4; ++q) {
    common.first = std::max(common.first, queries[q].here.first);
    common.last = std::min(common.last, queries[q].here.last);
  }
  common.last = std::max(common.first, common.last);
  for (int q = 0; q < 4; ++q) {
    const Range before{queries[q].here.first, std::min(common.first, queries[q].here.last)};
    add_values<V, 1>(tile, queries + q, before, head_dim, weights + q * tile_positions);
  }
  add_values<V, 4>(tile, queries, common, head_dim, weights);
  for (int q = 0; q < 4; ++q) {
    const Range after{std::max(common.last, queries[q].here.first), queries[q].here.last};
    add_values<V, 1>(tile, queries + q, after, head_dim, weights + q * tile_positions);
  }
}

/// Positions `first` to `last` of the sequence.
COTERIE_INLINE void find_tile(const Call& call, const Task& task, Range positions, Tile& tile) {
  const std::int64_t tokens = call.cache.block_tokens;
  const std::int64_t cols = std::int64_t{call.shape.kv_heads} * call.shape.head_dim;
  const std::int64_t column = std::int64_t{task.kv_head} * call.shape.head_dim;
  const auto* k = reinterpret_cast<const float*>(call.cache.k);
  const auto* v = reinterpret_cast<const float*>(call.cache.v);
  for (std::int64_t p = positions.first; p < positions.last; ++p) {
    const std::int64_t block = task.sequence->blocks[static_cast<std::size_t>(p / tokens)];
    const auto i = static_cast<std::size_t>(p % tile_positions);
    tile.keys[i] = k + (block * cols + column) * tokens + p % tokens;
    tile.values[i] = v + (block * tokens + p % tokens) * cols + column;
  }
}

/// K is K's register type: a block must hold whole ones.
template <class K, class V>
COTERIE_INLINE void attend(const Call& call, const Task& task) {
  const AttentionShape& shape = call.shape;
  const int group = shape.heads / shape.kv_heads;
  const std::int64_t count = task.count;
  Query queries[tile_queries];
  Range seen{std::numeric_limits<std::int64_t>::max(), 0};
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t row = (task.first + i) / group;
    const std::int64_t position = task.sequence->first_position + row;
    const std::int64_t column = (task.kv_head * group + (task.first + i) % group) * std::int64_t{shape.head_dim};
    Query& query = queries[i];
    query.q = f32_row(call.q, task.sequence->first_row + row) + column;
    query.out = f32_row(call.out, task.sequence->first_row + row) + column;
    query.visible = {shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0, position + 1};
    seen = {std::min(seen.first, query.visible.first), std::max(seen.last, query.visible.last)};
    for (int d = 0; d < shape.head_dim; ++d) query.out[d] = 0;
  }

  Tile tile;
  float scores[tile_queries * tile_positions];
  for (std::int64_t start = seen.first / tile_positions * tile_positions; start < seen.last; start += tile_positions) {
    // Whole registers of K: what lies in them beyond the visible positions is computed with and thrown away.
    const Range positions{std::max(seen.first, start) / lanes<K> * lanes<K>,
                          (std::min(seen.last, start + tile_positions) + lanes<K> - 1) / lanes<K> * lanes<K>};
    find_tile(call, task, positions, tile);
    score_tile<K>(call, tile, queries, count, {positions.first - start, positions.last - start}, scores);
    for (std::int64_t i = 0; i < count; ++i) {
      Query& query = queries[i];
      query.here.first = std::clamp<std::int64_t>(query.visible.first - start, 0, tile_positions);
      query.here.last = std::clamp(query.visible.last - start, query.here.first, tile_positions);
      if (query.here.first == query.here.last) continue;
      const float factor = weigh(query, scores + i * tile_positions);
      for (int d = 0; d < shape.head_dim; ++d) query.out[d] *= factor;
    }
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      add_values_of_four<V>(tile, queries + i, shape.head_dim, scores + i * tile_positions);
    }
    for (; i < count; ++i) {
      add_values<V, 1>(tile, queries + i, queries[i].here, shape.head_dim, scores + i * tile_positions);
    }
  }
  for (std::int64_t i = 0; i < count; ++i) {
    for (int d = 0; d < shape.head_dim; ++d) queries[i].out[d] /= queries[i].sum;
  }
}

COTERIE_V4 void attend_avx512(const Call& call, const Task& task) {
  call.cache.block_tokens % 16 == 0 ? attend<Float16, Float16>(call, task) : attend<Float1, Float16>(call, task);
}
COTERIE_V3 void attend_avx2(const Call& call, const Task& task) {
  call.cache.block_tokens % 8 == 0 ? attend<Float8, Float8>(call, task) : attend<Float1, Float8>(call, task);
}
void attend_any(const Call& call, const Task& task) {
  call.cache.block_tokens % 4 == 0 ? attend<Float4, Float4>(call, task) : attend<Float1, Float4>(call, task);
}

using Attend = void(const Call&, const Task&);
Attend* const attend_rows = for_processor<Attend>(attend_avx512, attend_avx2, attend_any);

std::int64_t check_sequences(std::span<const SequenceRows> sequences, const KvCache& cache, std::int64_t rows) {
  require(cache.block_tokens >= 1, "a cache block holds at least one position");
  std::int64_t covered = 0;
  for (const SequenceRows& sequence : sequences) {
    require(sequence.first_row >= 0 && sequence.rows >= 0 && sequence.first_row + sequence.rows <= rows,
            "a sequence's rows are outside the call's");
    const auto held = static_cast<std::int64_t>(sequence.blocks.size()) * cache.block_tokens;
    require(sequence.first_position >= 0 && sequence.first_position + sequence.rows <= held,
            "a sequence has fewer cache blocks than its positions need");
    covered += sequence.rows;
  }
  return covered;
}

}  // namespace

void CpuDevice::write_kv(const Tensor& k, const Tensor& v, std::span<const SequenceRows> sequences,
                         const KvCache& cache) {
  check_sequences(sequences, cache, k.rows);
  require_shape(k, k.rows, k.cols, "write_kv: K");
  require_shape(v, k.rows, k.cols, "write_kv: V");
  const std::int64_t tokens = cache.block_tokens;
  for (const SequenceRows& sequence : sequences) {
    for (std::int64_t r = 0; r < sequence.rows; ++r) {
      const std::int64_t position = sequence.first_position + r;
      const std::int64_t block = sequence.blocks[static_cast<std::size_t>(position / tokens)];
      const std::int64_t slot = position % tokens;
      const float* key = f32_row(k, sequence.first_row + r);
      float* keys = reinterpret_cast<float*>(cache.k) + block * tokens * k.cols + slot;
      for (std::int64_t c = 0; c < k.cols; ++c) keys[c * tokens] = key[c];
      std::copy_n(f32_row(v, sequence.first_row + r), v.cols,
                  reinterpret_cast<float*>(cache.v) + (block * tokens + slot) * v.cols);
    }
  }
}

void CpuDevice::attention(const Tensor& q, const KvCache& cache, std::span<const SequenceRows> sequences,
                          const AttentionShape& shape, const Tensor& out) {
  require(shape.heads >= 1 && shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0 && shape.head_dim >= 1 &&
              shape.window >= 0,
          "attention: the shape makes no sense");
  check_sequences(sequences, cache, q.rows);
  require_shape(q, q.rows, std::int64_t{shape.heads} * shape.head_dim, "attention: the queries");
  require_shape(out, q.rows, q.cols, "attention: the output");
  const Call call{q, cache, shape, out};
  const std::int64_t group = shape.heads / shape.kv_heads;
  std::vector<Task> tasks;
  std::int64_t operations = 0;
  for (const SequenceRows& sequence : sequences) {
    const std::int64_t queries = sequence.rows * group;
    const std::int64_t length = sequence.first_position + sequence.rows;
    operations += sequence.rows * q.cols * (shape.window > 0 ? std::min<std::int64_t>(length, shape.window) : length);
    for (std::int64_t first = 0; first < queries; first += tile_queries) {
      for (int head = 0; head < shape.kv_heads; ++head) {
        tasks.push_back({&sequence, first, std::min(tile_queries, queries - first), head});
      }
    }
  }
  parallel_for(threads_for(operations), static_cast<std::int64_t>(tasks.size()),
               [&](std::int64_t i) { attend_rows(call, tasks[static_cast<std::size_t>(i)]); });
}

}  // namespace coterie
