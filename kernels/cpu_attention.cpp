// The CPU's attention over the paged cache, with a running softmax over tiles of positions (Milakov and Gimelshein,
// arXiv 1805.02867). Tiles begin at multiples of their size, so that a row's sums don't depend on the chunk it came in.
//
// In a block K lies as (kv_heads, head_dim, block_tokens), so that scores of neighbouring positions are computed side
// by side; V as (kv_heads, block_tokens, head_dim). Either is read from front to back.
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
constexpr std::int64_t tile_queries = 30;
constexpr int queries_at_once = 6;  // sums of so many queries fill the registers

/// Registers of positions or dimensions beside so many queries.
template <class V, int Q>
inline constexpr int registers_across = (lanes<V> == 16 ? 4 : 2) * (Q <= 2 ? 2 : 1);

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
  const float* sinks;  ///< (heads), or none
  Tensor out;
};

/// Where V's numbers are, in floats.
struct ValueLayout {
  ValueLayout(const KvCache& cache, std::int64_t columns)
      : width(cache.head_dim > 0 ? cache.head_dim : columns), tokens(cache.block_tokens), cols(columns) {}
  /// `column` is a head's first.
  [[nodiscard]] std::int64_t at(std::int64_t block, std::int64_t slot, std::int64_t column) const {
    return (block * cols + column / width * width) * tokens + slot * width + column % width;
  }
  std::int64_t width;  ///< of what lies together
  std::int64_t tokens;
  std::int64_t cols;
};

struct Range {
  std::int64_t first = 0;
  std::int64_t last = 0;  ///< one past
};

/// A row's head, and its running softmax.
struct Query {
  const float* q = nullptr;
  float* out = nullptr;  ///< the sum so far, not yet divided
  float largest = -std::numeric_limits<float>::infinity();
  float sums[16] = {};  ///< of the weights, by position modulo 16
  float sink = -std::numeric_limits<float>::infinity();
  Range visible;  ///< positions
  Range here;     ///< of them in this tile, from the tile's first
};

/// Where a tile's positions are in the cache.
struct Tile {
  std::array<const float*, tile_positions> keys;    ///< at dimension 0; the next dimension is block_tokens on
  std::array<const float*, tile_positions> values;  ///< at dimension 0
};

/// The tile at work, and one whose numbers are fetched into the cache meanwhile.
struct Tiles {
  const Tile& now;
  const Tile& ahead;
};

COTERIE_INLINE void prefetch(const float* numbers) {
  __builtin_prefetch(numbers, 0, 2);
}

/// scores[q][i] for Q queries and `Vectors` registers of positions from `position` on; sums over dimensions in order.
template <class V, int Q, int Vectors>
COTERIE_INLINE void score(const Call& call, const Tiles& tiles, const Query* queries, std::int64_t position,
                          float* scores) {
  const std::int64_t step = call.cache.block_tokens;
  V sums[Q][Vectors] = {};
  const float* keys[Vectors];
  const float* ahead[Vectors];
#pragma GCC unroll 8
  for (int v = 0; v < Vectors; ++v) {
    keys[v] = tiles.now.keys[static_cast<std::size_t>(position + v * lanes<V>)];
    ahead[v] = tiles.ahead.keys[static_cast<std::size_t>(position + v * lanes<V>)];
  }
  for (std::int64_t d = 0; d < call.shape.head_dim; ++d) {
    V k[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      load(k[v], keys[v] + d * step);
      prefetch(ahead[v] + d * step);
    }
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const float x = queries[q].q[d];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[q][v] += k[v] * x;
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      const V scaled = sums[q][v] * call.shape.scale;
      store(scores + q * tile_positions + position + v * lanes<V>, scaled);
    }
  }
}

/// Scores of Q queries at `positions`, which are whole registers of the tile: `Vectors` at a time, then half as many.
template <class V, int Q, int Vectors>
COTERIE_INLINE void score_queries(const Call& call, const Tiles& tiles, const Query* queries, Range positions,
                                  float* scores) {
  for (; positions.first + Vectors * lanes<V> <= positions.last; positions.first += Vectors * lanes<V>) {
    score<V, Q, Vectors>(call, tiles, queries, positions.first, scores);
  }
  if constexpr (Vectors > 1) score_queries<V, Q, Vectors / 2>(call, tiles, queries, positions, scores);
}

/// The largest of a register's numbers, and of `largest`.
template <class V>
COTERIE_INLINE float largest_of(const V& numbers, float largest) {
  float each[lanes<V>];
  store(each, numbers);
#pragma GCC unroll 16
  for (int half = lanes<V> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) each[i] = each[i + half] > each[i] ? each[i + half] : each[i];
  }
  return each[0] > largest ? each[0] : largest;
}

/// Turns scores into weights relative to the largest so far, 0 outside `query.here`, and scales the sums so far to it.
template <class V>
COTERIE_INLINE void weigh(Query& query, float* scores, int head_dim) {
  using Integers = decltype(V{} < V{});
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  const std::int64_t first = query.here.first / 16 * 16;
  const std::int64_t last = (query.here.last + 15) / 16 * 16;
  for (std::int64_t i = first; i < query.here.first; ++i) scores[i] = lowest;
  for (std::int64_t i = query.here.last; i < last; ++i) scores[i] = lowest;
  V most = V{} + query.largest;
  for (std::int64_t i = first; i < last; i += lanes<V>) {
    V x;
    load(x, scores + i);
    most = x > most ? x : most;
  }
  const float largest = largest_of(most, query.largest);
  if (largest != query.largest) {
    const float factor = fast_exp(query.largest - largest);
    for (float& sum : query.sums) sum *= factor;
    for (int d = 0; d < head_dim; ++d) query.out[d] *= factor;
  }
  query.largest = largest;
  // The sums stay apart by position modulo 16 to the end.
  V sums[16 / lanes<V>];
  for (int part = 0; part < 16 / lanes<V>; ++part) load(sums[part], query.sums + part * lanes<V>);
  for (std::int64_t i = first; i < last; i += 16) {
    for (int part = 0; part < 16 / lanes<V>; ++part) {
      V x;
      load(x, scores + i + part * lanes<V>);
      x -= largest;
      exponential<V, Integers>(x);
      sums[part] += x;
      store(scores + i + part * lanes<V>, x);
    }
  }
  for (int part = 0; part < 16 / lanes<V>; ++part) store(query.sums + part * lanes<V>, sums[part]);
}

/// out[q] += weights[q][i] * V[i] over `positions`, `Vectors` registers of dimensions from `dimension` on.
template <class V, int Q, int Vectors>
COTERIE_INLINE void add_columns(const Tiles& tiles, const Query* queries, Range positions, std::int64_t dimension,
                                const float* weights) {
  V sums[Q][Vectors];
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) load(sums[q][v], queries[q].out + dimension + v * lanes<V>);
  }
  for (std::int64_t i = positions.first; i < positions.last; ++i) {
    const float* value = tiles.now.values[static_cast<std::size_t>(i)] + dimension;
    const float* ahead = tiles.ahead.values[static_cast<std::size_t>(i)] + dimension;
    V row[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      load(row[v], value + v * lanes<V>);
      prefetch(ahead + v * lanes<V>);
    }
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const float weight = weights[q * tile_positions + i];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[q][v] += row[v] * weight;
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(queries[q].out + dimension + v * lanes<V>, sums[q][v]);
  }
}

/// All dimensions from `dimension` on, `Vectors` registers at a time, then half as many.
template <class V, int Q, int Vectors>
COTERIE_INLINE void add_all_columns(const Tiles& tiles, const Query* queries, Range positions, std::int64_t dimension,
                                    std::int64_t head_dim, const float* weights) {
  for (; dimension + Vectors * lanes<V> <= head_dim; dimension += Vectors * lanes<V>) {
    add_columns<V, Q, Vectors>(tiles, queries, positions, dimension, weights);
  }
  if constexpr (Vectors > 1) {
    add_all_columns<V, Q, Vectors / 2>(tiles, queries, positions, dimension, head_dim, weights);
  } else {
    for (; dimension < head_dim; ++dimension) add_columns<Float1, Q, 1>(tiles, queries, positions, dimension, weights);
  }
}

template <class V, int Q>
COTERIE_INLINE void add_values(const Tiles& tiles, const Query* queries, Range positions, std::int64_t head_dim,
                               const float* weights) {
  if (positions.first >= positions.last) return;
  add_all_columns<V, Q, registers_across<V, Q>>(tiles, queries, positions, 0, head_dim, weights);
}

/// Q queries together where all of them see, each by itself before and after.
template <class V, int Q>
COTERIE_INLINE void add_values_of(const Tiles& tiles, const Query* queries, std::int64_t head_dim,
                                  const float* weights) {
  Range common = queries[0].here;
  for (int q = 1; q < Q; ++q) {
    common.first = std::max(common.first, queries[q].here.first);
    common.last = std::min(common.last, queries[q].here.last);
  }
  common.last = std::max(common.first, common.last);
  for (int q = 0; q < Q; ++q) {
    const Range before{queries[q].here.first, std::min(common.first, queries[q].here.last)};
    add_values<V, 1>(tiles, queries + q, before, head_dim, weights + q * tile_positions);
  }
  add_values<V, Q>(tiles, queries, common, head_dim, weights);
  for (int q = 0; q < Q; ++q) {
    const Range after{std::max(common.last, queries[q].here.first), queries[q].here.last};
    add_values<V, 1>(tiles, queries + q, after, head_dim, weights + q * tile_positions);
  }
}

/// `count` queries, at most Q.
template <class V, int Q>
COTERIE_INLINE void score_up_to(std::int64_t count, const Call& call, const Tiles& tiles, const Query* queries,
                                Range positions, float* scores) {
  if (count == Q) return score_queries<V, Q, registers_across<V, Q>>(call, tiles, queries, positions, scores);
  if constexpr (Q > 1) score_up_to<V, Q - 1>(count, call, tiles, queries, positions, scores);
}
template <class V, int Q>
COTERIE_INLINE void add_up_to(std::int64_t count, const Tiles& tiles, const Query* queries, std::int64_t head_dim,
                              const float* weights) {
  if (count == Q) return add_values_of<V, Q>(tiles, queries, head_dim, weights);
  if constexpr (Q > 1) add_up_to<V, Q - 1>(count, tiles, queries, head_dim, weights);
}

/// The tile that begins at position `begin`, as far as `seen` goes; returns its positions.
template <class K>
COTERIE_INLINE Range find_tile(const Call& call, const Task& task, std::int64_t begin, Range seen, Tile& tile) {
  // Whole registers of K: what lies in them beyond the visible positions is computed with and thrown away.
  const Range positions{std::max(seen.first, begin) / lanes<K> * lanes<K>,
                        (std::min(seen.last, begin + tile_positions) + lanes<K> - 1) / lanes<K> * lanes<K>};
  const std::int64_t tokens = call.cache.block_tokens;
  const std::int64_t cols = std::int64_t{call.shape.kv_heads} * call.shape.head_dim;
  const std::int64_t column = std::int64_t{task.kv_head} * call.shape.head_dim;
  const ValueLayout layout(call.cache, cols);
  for (std::int64_t p = positions.first; p < positions.last;) {
    const std::int64_t block = task.sequence->blocks[static_cast<std::size_t>(p / tokens)];
    const std::int64_t slot = p % tokens;
    const std::int64_t count = std::min(tokens - slot, positions.last - p);
    const float* key = reinterpret_cast<const float*>(call.cache.k) + (block * cols + column) * tokens + slot;
    const float* value = reinterpret_cast<const float*>(call.cache.v) + layout.at(block, slot, column);
    const auto i = static_cast<std::size_t>(p - begin);
    for (std::int64_t n = 0; n < count; ++n) {
      tile.keys[i + static_cast<std::size_t>(n)] = key + n;
      tile.values[i + static_cast<std::size_t>(n)] = value + n * layout.width;
    }
    p += count;
  }
  return positions;
}

/// What the rows of a task's queries see together.
Range seen_by(const Call& call, const Task& task) {
  const int group = call.shape.heads / call.shape.kv_heads;
  const std::int64_t first = task.sequence->first_position + task.first / group;
  const std::int64_t last = task.sequence->first_position + (task.first + task.count - 1) / group;
  return {call.shape.window > 0 ? std::max<std::int64_t>(0, first - call.shape.window + 1) : 0, last + 1};
}

void start(const Call& call, const Task& task, Query* queries) {
  const AttentionShape& shape = call.shape;
  const std::int64_t group = shape.heads / shape.kv_heads;
  for (std::int64_t i = 0; i < task.count; ++i) {
    const std::int64_t row = (task.first + i) / group;
    const std::int64_t position = task.sequence->first_position + row;
    const std::int64_t head = task.kv_head * group + (task.first + i) % group;
    Query& query = queries[i];
    query.q = f32_row(call.q, task.sequence->first_row + row) + head * shape.head_dim;
    query.out = f32_row(call.out, task.sequence->first_row + row) + head * shape.head_dim;
    query.visible = {shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0, position + 1};
    if (call.sinks != nullptr) query.sink = call.sinks[head];
    std::fill_n(query.out, shape.head_dim, 0.0F);
  }
}

void finish(const Call& call, const Task& task, Query* queries) {
  for (std::int64_t i = 0; i < task.count; ++i) {
    float* sums = queries[i].sums;
    for (int half = 8; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    }
    // A sink may be far larger than every score.
    const float largest = std::max(queries[i].largest, queries[i].sink);
    const float factor = fast_exp(queries[i].largest - largest);
    const float total = sums[0] * factor + fast_exp(queries[i].sink - largest);
    for (int d = 0; d < call.shape.head_dim; ++d) queries[i].out[d] = queries[i].out[d] * factor / total;
  }
}

/// K is the type of K's registers, of which a block must hold whole ones. `next` is a task that may follow this one.
template <class K, class V>
COTERIE_INLINE void attend(const Call& call, const Task& task, const Task& next) {
  const int head_dim = call.shape.head_dim;
  const std::int64_t parts = (task.count + queries_at_once - 1) / queries_at_once;
  const Range seen = seen_by(call, task);
  const Range seen_next = seen_by(call, next);
  Query queries[tile_queries];
  start(call, task, queries);
  float scores[tile_queries * tile_positions];
  Tile tiles[2];
  std::int64_t begin = seen.first / tile_positions * tile_positions;
  Range positions = find_tile<K>(call, task, begin, seen, tiles[0]);
  tiles[1] = tiles[0];
  for (int turn = 0; begin < seen.last; begin += tile_positions, turn = 1 - turn) {
    const Tiles both{tiles[turn], tiles[1 - turn]};
    const bool last = begin + tile_positions >= seen.last;
    const Range positions_ahead =
        last ? find_tile<K>(call, next, seen_next.first / tile_positions * tile_positions, seen_next, tiles[1 - turn])
             : find_tile<K>(call, task, begin + tile_positions, seen, tiles[1 - turn]);
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t first = task.count * part / parts;
      score_up_to<K, queries_at_once>(task.count * (part + 1) / parts - first, call, both, queries + first,
                                      {positions.first - begin, positions.last - begin},
                                      scores + first * tile_positions);
    }
    for (std::int64_t i = 0; i < task.count; ++i) {
      Query& query = queries[i];
      query.here.first = std::clamp<std::int64_t>(query.visible.first - begin, 0, tile_positions);
      query.here.last = std::clamp(query.visible.last - begin, query.here.first, tile_positions);
      if (query.here.first < query.here.last) weigh<V>(query, scores + i * tile_positions, head_dim);
    }
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t first = task.count * part / parts;
      add_up_to<V, queries_at_once>(task.count * (part + 1) / parts - first, both, queries + first, head_dim,
                                    scores + first * tile_positions);
    }
    positions = positions_ahead;
  }
  finish(call, task, queries);
}

COTERIE_V4 void attend_avx512(const Call& call, const Task& task, const Task& next) {
  attend<Float16, Float16>(call, task, next);
}
COTERIE_V3 void attend_avx2(const Call& call, const Task& task, const Task& next) {
  attend<Float8, Float8>(call, task, next);
}
void attend_any(const Call& call, const Task& task, const Task& next) {
  attend<Float4, Float4>(call, task, next);
}
void attend_odd_blocks(const Call& call, const Task& task, const Task& next) {
  attend<Float1, Float4>(call, task, next);
}

using Attend = void(const Call&, const Task&, const Task&);
Attend* const attend_whole_blocks = for_processor<Attend>(attend_avx512, attend_avx2, attend_any);

}  // namespace

void CpuDevice::write_kv(const Tensor& k, const Tensor& v, std::span<const SequenceRows> sequences,
                         const KvCache& cache) {
  require_sequences(sequences, cache, k.rows);
  require_shape(k, k.rows, k.cols, "write_kv: K");
  if (v.cols == 0) return write_latent(k, sequences, cache);
  require_shape(v, k.rows, k.cols, "write_kv: V");
  const std::int64_t tokens = cache.block_tokens;
  const ValueLayout layout(cache, v.cols);
  require(v.cols % layout.width == 0, "write_kv: V is no whole heads");
  for (const SequenceRows& sequence : sequences) {
    for (std::int64_t r = 0; r < sequence.rows; ++r) {
      const std::int64_t position = sequence.first_position + r;
      const std::int64_t block = sequence.blocks[static_cast<std::size_t>(position / tokens)];
      const std::int64_t slot = position % tokens;
      const float* key = f32_row(k, sequence.first_row + r);
      float* keys = reinterpret_cast<float*>(cache.k) + block * tokens * k.cols + slot;
      for (std::int64_t c = 0; c < k.cols; ++c) keys[c * tokens] = key[c];
      const float* value = f32_row(v, sequence.first_row + r);
      for (std::int64_t c = 0; c < v.cols; c += layout.width) {
        std::copy_n(value + c, layout.width, reinterpret_cast<float*>(cache.v) + layout.at(block, slot, c));
      }
    }
  }
}

void CpuDevice::attention(const Tensor& q, const KvCache& cache, std::span<const SequenceRows> sequences,
                          const AttentionShape& shape, const Tensor& out, const Tensor& sinks) {
  require_attention(shape, cache);
  require_sequences(sequences, cache, q.rows);
  require_shape(q, q.rows, std::int64_t{shape.heads} * shape.head_dim, "attention: the queries");
  require_shape(out, q.rows, q.cols, "attention: the output");
  if (sinks.data != nullptr) require_shape(sinks, 1, shape.heads, "attention: the sinks");
  const Call call{q, cache, shape, sinks.data == nullptr ? nullptr : f32_row(sinks, 0), out};
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
  Attend* const attend_rows = cache.block_tokens % 16 == 0 ? attend_whole_blocks : attend_odd_blocks;
  const auto count = static_cast<std::int64_t>(tasks.size());
  parallel_for(threads_for(operations), count, [&](std::int64_t i) {
    attend_rows(call, tasks[static_cast<std::size_t>(i)], tasks[static_cast<std::size_t>(std::min(i + 1, count - 1))]);
  });
}

}  // namespace coterie
