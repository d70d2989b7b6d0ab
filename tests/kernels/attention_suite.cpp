// Attention over the paged cache.
#include "tests/kernels/device_suite.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace coterie {
namespace {

/// One sequence's numbers, and its blocks in the cache.
struct Sequence {
  std::int64_t length = 0;
  Numbers q;  ///< (length, heads * head_dim)
  Numbers k;  ///< (length, kv_heads * head_dim)
  Numbers v;
  std::vector<std::int32_t> blocks;
};

/// Rows [first, first + rows) of a sequence.
struct Piece {
  std::size_t sequence;
  std::int64_t first;
  std::int64_t rows;
};

/// Sequences and their cache on the device of a test.
class Attention {
 public:
  explicit Attention(DeviceTest& in) : test(in) {}

  [[nodiscard]] std::int64_t q_cols() const { return std::int64_t{shape.heads} * shape.head_dim; }
  [[nodiscard]] std::int64_t kv_cols() const { return std::int64_t{shape.kv_heads} * shape.head_dim; }

  /// A cache full of NaN, its blocks dealt out at random, one more to each sequence than it needs.
  void make(const std::vector<std::int64_t>& lengths, AttentionShape of, int block_tokens) {
    shape = of;
    cache.block_tokens = block_tokens;
    cache.head_dim = test.uniform(0, 1) == 0 ? 0 : of.head_dim;
    sequences.clear();
    std::int64_t blocks = 0;
    for (const std::int64_t length : lengths) {
      sequences.push_back({length,
                           test.normal(length * q_cols()),
                           test.normal(length * kv_cols()),
                           test.normal(length * kv_cols()),
                           {}});
      sequences.back().blocks.resize(static_cast<std::size_t>(length / block_tokens + 1));
      blocks += length / block_tokens + 1;
    }
    std::vector<std::int32_t> ids(static_cast<std::size_t>(blocks));
    std::iota(ids.begin(), ids.end(), 0);
    std::ranges::shuffle(ids, test.random);
    auto next = ids.begin();
    for (Sequence& sequence : sequences) {
      for (std::int32_t& block : sequence.blocks) block = *next++;
    }
    sinks = with_sinks ? test.normal(of.heads, 3) : Numbers{};
    keys = test.blank(blocks, block_tokens * kv_cols());
    values = test.blank(blocks, block_tokens * kv_cols());
    cache.k = keys.tensor.data;
    cache.v = values.tensor.data;
  }

  /// Writes and attends these pieces in one call; their outputs in order.
  std::vector<Numbers> step(const std::vector<Piece>& pieces) {
    Numbers q;
    Numbers k;
    Numbers v;
    std::vector<SequenceRows> rows;
    std::int64_t total = 0;
    const auto append = [](Numbers& to, const Numbers& from, std::int64_t first, std::int64_t count,
                           std::int64_t cols) {
      to.insert(to.end(), from.begin() + first * cols, from.begin() + (first + count) * cols);
    };
    for (const Piece& piece : pieces) {
      const Sequence& sequence = sequences[piece.sequence];
      append(q, sequence.q, piece.first, piece.rows, q_cols());
      append(k, sequence.k, piece.first, piece.rows, kv_cols());
      append(v, sequence.v, piece.first, piece.rows, kv_cols());
      rows.push_back({total, piece.rows, piece.first, sequence.blocks});
      total += piece.rows;
    }
    const Array qs = test.on_device(q, total, q_cols(), 3);
    const Array ks = test.on_device(k, total, kv_cols(), 1);
    const Array vs = test.on_device(v, total, kv_cols(), 2);
    const Array out = test.blank(total, q_cols(), 4);
    test.device->write_kv(ks.tensor, vs.tensor, rows, cache);
    const Array s = test.on_device(sinks, sinks.empty() ? 0 : 1, shape.heads);
    test.device->attention(qs.tensor, cache, rows, shape, out.tensor, sinks.empty() ? Tensor{} : s.tensor);
    const Numbers got = test.on_host(out);
    std::vector<Numbers> parts;
    parts.reserve(rows.size());
    for (const SequenceRows& part : rows) {
      parts.emplace_back(got.begin() + part.first_row * q_cols(),
                         got.begin() + (part.first_row + part.rows) * q_cols());
    }
    return parts;
  }

  /// Rows of a sequence by plain loops in double precision; bounds from the largest value and score.
  void expect_attention(const Sequence& sequence, std::int64_t first, const Numbers& got) const {
    const auto dim = static_cast<std::size_t>(shape.head_dim);
    const auto rows = static_cast<std::int64_t>(got.size()) / q_cols();
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t position = first + r;
      const std::int64_t start = shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0;
      for (int head = 0; head < shape.heads; ++head) {
        const auto kv = static_cast<std::size_t>(head / (shape.heads / shape.kv_heads)) * dim;
        const auto query = static_cast<std::size_t>(position * q_cols()) + static_cast<std::size_t>(head) * dim;
        std::vector<double> scores;
        double largest = -std::numeric_limits<double>::infinity();
        double size = 0;
        for (std::int64_t p = start; p <= position; ++p) {
          double score = 0;
          double terms = 0;
          for (std::size_t d = 0; d < dim; ++d) {
            const double term = static_cast<double>(sequence.q[query + d]) *
                                sequence.k[static_cast<std::size_t>(p * kv_cols()) + kv + d] * shape.scale;
            score += term;
            terms += std::abs(term);
          }
          scores.push_back(score);
          largest = std::max(largest, score);
          size = std::max(size, terms);
        }
        const double sink = sinks.empty() ? -std::numeric_limits<double>::infinity() : sinks[head];
        largest = std::max(largest, sink);
        double sum = std::exp(sink - largest);
        for (double& score : scores) sum += score = std::exp(score - largest);
        const double relative =
            std::numeric_limits<float>::epsilon() * (8 + 4 * size + std::sqrt(static_cast<double>(scores.size())));
        for (std::size_t d = 0; d < dim; ++d) {
          double value = 0;
          double terms = 0;
          for (std::size_t i = 0; i < scores.size(); ++i) {
            const double term =
                scores[i] / sum *
                sequence.v[(static_cast<std::size_t>(start) + i) * static_cast<std::size_t>(kv_cols()) + kv + d];
            value += term;
            terms += std::abs(term);
          }
          ASSERT_NEAR(got[static_cast<std::size_t>(r * q_cols()) + static_cast<std::size_t>(head) * dim + d], value,
                      relative * terms)
              << "position " << position << " head " << head << " dimension " << d;
        }
      }
    }
  }

  DeviceTest& test;
  AttentionShape shape;
  KvCache cache;
  Array keys;
  Array values;
  bool with_sinks = false;  ///< from the next make() on
  Numbers sinks;            ///< (heads), or none
  std::vector<Sequence> sequences;
};

using Lengths = std::vector<std::int64_t>;

TEST_P(DeviceTest, AttentionIsTheSoftmaxOfWhatIsVisible) {
  Attention attention(*this);
  for (const AttentionShape& of : {AttentionShape{4, 2, 16, 0.25F, 0},
                                   {3, 3, 5, 0.4F, 0},
                                   {8, 1, 64, 0.125F, 7},
                                   {4, 4, 33, 0.2F, 1},
                                   {40, 1, 24, 0.2F, 150},
                                   {6, 2, 128, 0.09F, 0}}) {
    for (const int block_tokens : {16, 5, 32}) {
      SCOPED_TRACE("heads " + std::to_string(of.heads) + " of " + std::to_string(of.kv_heads) + " x " +
                   std::to_string(of.head_dim) + ", window " + std::to_string(of.window) + ", blocks of " +
                   std::to_string(block_tokens));
      attention.with_sinks = !attention.with_sinks;
      attention.make(Lengths{1, 17, 200, 40}, of, block_tokens);
      const auto out = attention.step({{0, 0, 1}, {1, 0, 17}, {2, 0, 200}, {3, 0, 40}});
      for (std::size_t s = 0; s < out.size(); ++s) attention.expect_attention(attention.sequences[s], 0, out[s]);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(DeviceTest, AttentionChunksAndNeighboursChangeNoBit) {
  Attention attention(*this);
  for (const AttentionShape& of :
       {AttentionShape{4, 2, 16, 0.25F, 0}, {2, 2, 20, 0.3F, 50}, {4, 2, 12, 0.3F, 5}, {8, 2, 64, 0.125F, 0}}) {
    for (const int block_tokens : {16, 6}) {
      attention.with_sinks = block_tokens == 16;
      attention.make(Lengths{290, 33, 141}, of, block_tokens);
      std::vector<Numbers> whole;
      for (std::size_t s = 0; s < attention.sequences.size(); ++s)
        whole.push_back(attention.step({{s, 0, attention.sequences[s].length}})[0]);
      // Again from an empty cache: random chunks, sequences together in random order.
      const Numbers nan(static_cast<std::size_t>(attention.keys.tensor.rows * attention.keys.tensor.cols),
                        std::numeric_limits<float>::quiet_NaN());
      device->upload(nan, attention.keys.tensor);
      device->upload(nan, attention.values.tensor);
      Lengths done(attention.sequences.size());
      while (true) {
        std::vector<Piece> pieces;
        for (std::size_t s = 0; s < attention.sequences.size(); ++s) {
          const std::int64_t left = attention.sequences[s].length - done[s];
          if (left > 0 && random() % 3 != 0) {
            pieces.push_back({s, done[s], std::min(left, uniform(0, 1) == 0 ? 1 : uniform(1, 60))});
          }
        }
        std::ranges::shuffle(pieces, random);
        const auto out = attention.step(pieces);
        for (std::size_t i = 0; i < pieces.size(); ++i) {
          const Piece& piece = pieces[i];
          expect_same(out[i],
                      std::span(whole[piece.sequence])
                          .subspan(static_cast<std::size_t>(piece.first * attention.q_cols()),
                                   static_cast<std::size_t>(piece.rows * attention.q_cols())),
                      "sequence " + std::to_string(piece.sequence) + ", rows " + std::to_string(piece.first) + " + " +
                          std::to_string(piece.rows));
          if (HasFatalFailure()) return;
          done[piece.sequence] += piece.rows;
        }
        if (std::ranges::equal(done, attention.sequences, {}, {}, &Sequence::length)) break;
      }
    }
  }
}

TEST_P(DeviceTest, AttentionWindowsOfAnySizeInAnyChunks) {
  Attention attention(*this);
  for (int draw = 0; draw < 12; ++draw) {
    const int window = static_cast<int>(uniform(1, uniform(0, 1) == 0 ? 20 : 160));
    const int block_tokens = static_cast<int>(uniform(0, 1) == 0 ? 16 : uniform(1, 40));
    SCOPED_TRACE("window " + std::to_string(window) + ", blocks of " + std::to_string(block_tokens));
    attention.with_sinks = draw % 2 == 0;
    attention.make(Lengths{uniform(1, 300)}, {4, 2, 16, 0.25F, window}, block_tokens);
    const std::int64_t length = attention.sequences[0].length;
    for (std::int64_t done = 0; done < length;) {
      const std::int64_t rows = std::min(length - done, uniform(1, uniform(0, 1) == 0 ? 3 : 2 * window));
      attention.expect_attention(attention.sequences[0], done, attention.step({{0, done, rows}})[0]);
      if (HasFatalFailure()) return;
      done += rows;
    }
  }
}

TEST_P(DeviceTest, AttentionSinksMayDwarfTheScoresOrVanish) {
  Attention attention(*this);
  attention.with_sinks = true;
  attention.make(Lengths{40}, {3, 1, 8, 0.3F, 0}, 16);
  attention.sinks = {-1000, 1000, -std::numeric_limits<float>::infinity()};
  const Numbers out = attention.step({{0, 0, 40}})[0];
  attention.sinks.clear();
  const Numbers without = attention.step({{0, 0, 40}})[0];
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], i / 8 % 3 == 1 ? 0 : without[i]) << i;
}

TEST_P(DeviceTest, AttentionRefusesSinksOfOtherHeads) {
  Attention attention(*this);
  attention.make(Lengths{5}, {2, 2, 8, 0.3F, 0}, 16);
  const Array q = blank(1, 16);
  const Array out = blank(1, 16);
  const Array sinks = blank(1, 3);
  const SequenceRows row{0, 1, 0, attention.sequences[0].blocks};
  EXPECT_THROW(
      device->attention(q.tensor, attention.cache, std::span(&row, 1), attention.shape, out.tensor, sinks.tensor),
      std::invalid_argument);
}

TEST_P(DeviceTest, AttentionNothingToDo) {
  Attention attention(*this);
  attention.make(Lengths{5}, {2, 2, 8, 0.3F, 0}, 16);
  EXPECT_TRUE(attention.step({}).empty());
  EXPECT_TRUE(attention.step({{0, 0, 0}})[0].empty());
}

TEST_P(DeviceTest, AttentionShowsNotANumber) {
  Attention attention(*this);
  attention.make(Lengths{40}, {2, 1, 8, 0.3F, 0}, 16);
  attention.sequences[0].k[160] = std::numeric_limits<float>::quiet_NaN();  // position 20
  const Numbers out = attention.step({{0, 0, 40}})[0];
  for (std::size_t p = 0; p < 40; ++p) {
    for (std::size_t c = 0; c < 16; ++c) EXPECT_EQ(std::isnan(out[p * 16 + c]), p >= 20) << p;
  }
}

TEST_P(DeviceTest, AttentionRefusesPositionsWithoutABlock) {
  Attention attention(*this);
  attention.make(Lengths{5}, {2, 2, 8, 0.3F, 0}, 16);
  const Array q = blank(1, 16);
  const SequenceRows row{0, 1, 16, attention.sequences[0].blocks};
  EXPECT_THROW(device->attention(q.tensor, attention.cache, std::span(&row, 1), attention.shape, q.tensor),
               std::invalid_argument);
  EXPECT_THROW(device->write_kv(q.tensor, q.tensor, std::span(&row, 1), attention.cache), std::invalid_argument);
}

}  // namespace
}  // namespace coterie
