// The CPU's latent attention: a running softmax over tiles of positions, as in cpu_attention.cpp. Many queries meet
// each row of the cache, since all heads share it: registers hold queries side by side while scores are computed, and
// columns while values are added. A query's sums go through its positions and columns in order, whatever is beside it.
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_simd.hpp"

#include <omp.h>

#include <algorithm>
#include <array>
#include <limits>

namespace coterie {
namespace {

using Float1 = float __attribute__((vector_size(4)));

constexpr std::int64_t tile_positions = 48;
constexpr std::int64_t tile_queries = 64;
constexpr int queries_at_once = 6;

/// Registers of queries beside each other where scores are computed, and of columns where values are added.
template <class V>
inline constexpr int registers_across = lanes<V> == 16 ? 4 : 2;
/// Positions beside so many registers: sums fill the registers. Divides tile_positions.
template <class V, int Vectors>
inline constexpr int positions_at_once = Vectors == registers_across<V> ? 6 : 8;

struct Call {
  Tensor q_latent;
  Tensor q_rope;
  KvCache cache;
  LatentShape shape;
  Tensor out;

  [[nodiscard]] std::int64_t width() const { return shape.latent + shape.rope; }
};

/// Queries of one sequence: query i is of row i / heads, head i % heads.
struct Task {
  const SequenceRows* sequence = nullptr;
  std::int64_t first = 0;
  std::int64_t count = 0;  ///< at most tile_queries
};

/// A task's queries and their running softmax; lanes beyond the last query are zeros that nobody reads.
struct Queries {
  float* by_column;  ///< (latent + rope, tile_queries)
  std::array<float*, tile_queries> out;
  std::array<std::int32_t, tile_queries> visible;  ///< positions from the tile's first
  std::array<float, tile_queries> largest;
  std::array<float, tile_queries> sums;
  std::array<float, tile_queries> factors;  ///< on the sums so far
};

/// scores[i][q] for some positions i and the queries of `Vectors` registers.
template <class V, int Vectors, int Positions>
COTERIE_INLINE void score(const float* const* rows, const float* queries, std::int64_t width, float scale,
                          float* scores) {
  V sums[Positions][Vectors] = {};
  const float* row[Positions];
#pragma GCC unroll 8
  for (int i = 0; i < Positions; ++i) row[i] = rows[i];
  for (std::int64_t c = 0; c < width; ++c) {
    V q[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) load(q[v], queries + c * tile_queries + v * lanes<V>);
#pragma GCC unroll 8
    for (int i = 0; i < Positions; ++i) {
      const float x = row[i][c];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[i][v] += q[v] * x;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Positions; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      const V scaled = sums[i][v] * scale;
      store(scores + i * tile_queries + v * lanes<V>, scaled);
    }
  }
}

/// All of a tile's scores for the queries in [first, last), whole registers.
template <class V, int Vectors>
COTERIE_INLINE void score_queries(const Call& call, const Queries& queries, const float* const* rows,
                                  std::int64_t positions, std::int64_t first, std::int64_t last, float* scores) {
  constexpr int at_once = positions_at_once<V, Vectors>;
  for (; first + Vectors * lanes<V> <= last; first += Vectors * lanes<V>) {
    for (std::int64_t i = 0; i < positions; i += at_once) {
      score<V, Vectors, at_once>(rows + i, queries.by_column + first, call.width(), call.shape.scale,
                                 scores + i * tile_queries + first);
    }
  }
  if constexpr (Vectors > 1) score_queries<V, Vectors / 2>(call, queries, rows, positions, first, last, scores);
}

/// Turns the scores of one register's queries into weights relative to their largest so far, 0 where not visible.
template <class V>
COTERIE_INLINE void weigh(Queries& queries, std::int64_t first, std::int64_t positions, float* scores) {
  using Integers = decltype(V{} < V{});
  const V lowest = V{} - std::numeric_limits<float>::infinity();
  const auto at = static_cast<std::size_t>(first);
  Integers visible;
  V before;
  V sums;
  load(visible, &queries.visible[at]);
  load(before, &queries.largest[at]);
  load(sums, &queries.sums[at]);
  V most = before;
  for (std::int64_t i = 0; i < positions; ++i) {
    V x;
    load(x, scores + i * tile_queries + first);
    x = visible > static_cast<std::int32_t>(i) ? x : lowest;
    store(scores + i * tile_queries + first, x);
    most = x > most ? x : most;
  }
  V factor = before - most;
  exponential<V, Integers>(factor);
  sums *= factor;
  for (std::int64_t i = 0; i < positions; ++i) {
    V x;
    load(x, scores + i * tile_queries + first);
    x -= most;
    exponential<V, Integers>(x);
    sums += x;
    store(scores + i * tile_queries + first, x);
  }
  store(&queries.largest[at], most);
  store(&queries.sums[at], sums);
  store(&queries.factors[at], factor);
}

/// out[q] += weights[i][q] * row i over positions [first, last), `Vectors` registers of columns from `column` on.
template <class V, int Q, int Vectors>
COTERIE_INLINE void add_columns(const float* const* rows, float* const* out, std::int64_t first, std::int64_t last,
                                std::int64_t column, const float* weights) {
  V sums[Q][Vectors];
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) load(sums[q][v], out[q] + column + v * lanes<V>);
  }
  for (std::int64_t i = first; i < last; ++i) {
    V row[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) load(row[v], rows[i] + column + v * lanes<V>);
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const float weight = weights[i * tile_queries + q];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[q][v] += row[v] * weight;
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(out[q] + column + v * lanes<V>, sums[q][v]);
  }
}

template <class V, int Q, int Vectors>
COTERIE_INLINE void add_all_columns(const float* const* rows, float* const* out, std::int64_t first, std::int64_t last,
                                    std::int64_t column, std::int64_t columns, const float* weights) {
  for (; column + Vectors * lanes<V> <= columns; column += Vectors * lanes<V>) {
    add_columns<V, Q, Vectors>(rows, out, first, last, column, weights);
  }
  if constexpr (Vectors > 1) {
    add_all_columns<V, Q, Vectors / 2>(rows, out, first, last, column, columns, weights);
  } else {
    for (; column < columns; ++column) add_columns<Float1, Q, 1>(rows, out, first, last, column, weights);
  }
}

/// `count` queries, at most Q, whose visible positions don't become fewer: together as far as the first one sees, then
/// each by itself.
template <class V, int Q>
COTERIE_INLINE void add_values(std::int64_t count, const float* const* rows, float* const* out,
                               const std::int32_t* visible, std::int64_t columns, const float* weights) {
  if (count < Q) {
    if constexpr (Q > 1) add_values<V, Q - 1>(count, rows, out, visible, columns, weights);
    return;
  }
  add_all_columns<V, Q, registers_across<V>>(rows, out, 0, visible[0], 0, columns, weights);
  for (int q = 1; q < Q; ++q) {
    if (visible[q] == visible[0]) continue;
    add_all_columns<V, 1, registers_across<V>>(rows, out + q, visible[0], visible[q], 0, columns, weights + q);
  }
}

void start(const Call& call, const Task& task, std::int64_t lanes_used, Queries& queries) {
  const std::int64_t heads = call.shape.heads;
  std::array<const float*, tile_queries> latent;
  std::array<const float*, tile_queries> rope;
  for (std::int64_t i = 0; i < task.count; ++i) {
    const std::int64_t row = task.sequence->first_row + (task.first + i) / heads;
    const std::int64_t head = (task.first + i) % heads;
    const auto at = static_cast<std::size_t>(i);
    latent[at] = f32_row(call.q_latent, row) + head * call.shape.latent;
    rope[at] = f32_row(call.q_rope, row) + head * call.shape.rope;
    queries.out[at] = f32_row(call.out, row) + head * call.shape.latent;
    std::fill_n(queries.out[at], call.shape.latent, 0.0F);
  }
  queries.largest.fill(-std::numeric_limits<float>::infinity());
  queries.sums.fill(0);
  for (std::int64_t c = 0; c < call.width(); ++c) {
    float* to = queries.by_column + c * tile_queries;
    const auto& from = c < call.shape.latent ? latent : rope;
    const std::int64_t column = c < call.shape.latent ? c : c - call.shape.latent;
    for (std::int64_t i = 0; i < task.count; ++i) to[i] = from[static_cast<std::size_t>(i)][column];
    std::fill(to + task.count, to + lanes_used, 0.0F);
  }
}

/// The rows of the positions from `begin` on; beyond the last, again the last.
void find_rows(const Call& call, const Task& task, std::int64_t begin, std::int64_t count,
               std::array<const float*, tile_positions>& rows) {
  const std::int64_t tokens = call.cache.block_tokens;
  for (std::int64_t i = 0; i < tile_positions; ++i) {
    const std::int64_t position = begin + std::min(i, count - 1);
    const std::int64_t block = task.sequence->blocks[static_cast<std::size_t>(position / tokens)];
    rows[static_cast<std::size_t>(i)] =
        reinterpret_cast<const float*>(call.cache.k) + (block * tokens + position % tokens) * call.width();
  }
}

template <class V>
COTERIE_INLINE void attend(const Call& call, const Task& task, float* by_column) {
  const std::int64_t used = (task.count + lanes<V> - 1) / lanes<V> * lanes<V>;
  const std::int64_t columns = call.shape.latent;
  Queries queries;
  queries.by_column = by_column;
  start(call, task, used, queries);
  const auto position_of = [&](std::int64_t i) {
    return task.sequence->first_position + (task.first + i) / call.shape.heads;
  };
  std::array<const float*, tile_positions> rows;
  alignas(64) float scores[tile_positions * tile_queries];
  const std::int64_t end = position_of(task.count - 1) + 1;
  for (std::int64_t begin = 0; begin < end; begin += tile_positions) {
    const std::int64_t positions = std::min(tile_positions, end - begin);
    find_rows(call, task, begin, positions, rows);
    for (std::int64_t i = 0; i < tile_queries; ++i) {
      const std::int64_t seen = position_of(std::min(i, task.count - 1)) + 1 - begin;
      queries.visible[static_cast<std::size_t>(i)] =
          static_cast<std::int32_t>(std::clamp<std::int64_t>(seen, 0, positions));
    }
    score_queries<V, registers_across<V>>(call, queries, rows.data(), positions, 0, used, scores);
    for (std::int64_t first = 0; first < used; first += lanes<V>) weigh<V>(queries, first, positions, scores);
    for (std::int64_t first = 0; first < task.count; first += queries_at_once) {
      const auto at = static_cast<std::size_t>(first);
      const std::int64_t count = std::min<std::int64_t>(queries_at_once, task.count - first);
      for (std::size_t q = at; q < at + static_cast<std::size_t>(count); ++q) {
        if (begin == 0 || queries.factors[q] == 1) continue;
        for (std::int64_t c = 0; c < columns; ++c) queries.out[q][c] *= queries.factors[q];
      }
      add_values<V, queries_at_once>(count, rows.data(), &queries.out[at], &queries.visible[at], columns,
                                     scores + first);
    }
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(task.count); ++i) {
    for (std::int64_t c = 0; c < columns; ++c) queries.out[i][c] /= queries.sums[i];
  }
}

COTERIE_V4 void attend_avx512(const Call& call, const Task& task, float* by_column) {
  attend<Float16>(call, task, by_column);
}
COTERIE_V3 void attend_avx2(const Call& call, const Task& task, float* by_column) {
  attend<Float8>(call, task, by_column);
}
void attend_any(const Call& call, const Task& task, float* by_column) {
  attend<Float4>(call, task, by_column);
}

using Attend = void(const Call&, const Task&, float*);
Attend* const attend_task = for_processor<Attend>(attend_avx512, attend_avx2, attend_any);

}  // namespace

void write_latent(const Tensor& rows, std::span<const SequenceRows> sequences, const KvCache& cache) {
  for (const SequenceRows& sequence : sequences) {
    for (std::int64_t r = 0; r < sequence.rows; ++r) {
      const std::int64_t position = sequence.first_position + r;
      const std::int64_t block = sequence.blocks[static_cast<std::size_t>(position / cache.block_tokens)];
      float* to =
          reinterpret_cast<float*>(cache.k) + (block * cache.block_tokens + position % cache.block_tokens) * rows.cols;
      std::copy_n(f32_row(rows, sequence.first_row + r), rows.cols, to);
    }
  }
}

void CpuDevice::latent_attention(const Tensor& q_latent, const Tensor& q_rope, const KvCache& cache,
                                 std::span<const SequenceRows> sequences, const LatentShape& shape, const Tensor& out) {
  require(shape.heads >= 1 && shape.latent >= 1 && shape.rope >= 0, "latent_attention: the shape makes no sense");
  require_sequences(sequences, cache, q_latent.rows);
  require_shape(q_latent, q_latent.rows, std::int64_t{shape.heads} * shape.latent,
                "latent_attention: the latent queries");
  require_shape(q_rope, q_latent.rows, std::int64_t{shape.heads} * shape.rope, "latent_attention: the rotated queries");
  require_shape(out, q_latent.rows, q_latent.cols, "latent_attention: the output");
  const Call call{q_latent, q_rope, cache, shape, out};
  std::vector<Task> tasks;
  std::int64_t operations = 0;
  for (const SequenceRows& sequence : sequences) {
    const std::int64_t queries = sequence.rows * shape.heads;
    operations += queries * (call.width() + shape.latent) * (sequence.first_position + sequence.rows);
    for (std::int64_t first = 0; first < queries; first += tile_queries) {
      tasks.push_back({&sequence, first, std::min(tile_queries, queries - first)});
    }
  }
  parallel_for(threads_for(operations), static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
    Scratch& scratch = expert_scratch_[static_cast<std::size_t>(omp_get_thread_num())].queries;
    attend_task(call, tasks[static_cast<std::size_t>(i)], scratch.get<float>(call.width() * tile_queries));
  });
}

}  // namespace coterie
