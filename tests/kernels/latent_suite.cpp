// Latent attention over the paged cache.
#include "tests/kernels/device_suite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace coterie {
namespace {

using Lengths = std::vector<std::int64_t>;

/// Rows [first, first + rows) of a sequence.
struct Piece {
  std::size_t sequence;
  std::int64_t first;
  std::int64_t rows;
};

/// Sequences with their rows and queries, and their cache on the device of a test.
class Latent {
 public:
  struct Sequence {
    std::int64_t length = 0;
    Numbers q_latent;  ///< (length, heads * latent)
    Numbers q_rope;    ///< (length, heads * rope)
    Numbers rows;      ///< (length, latent + rope)
    std::vector<std::int32_t> blocks;
  };

  /// A cache full of NaN, its blocks dealt out at random, one more to each sequence than it needs.
  Latent(DeviceTest& in, const Lengths& lengths, LatentShape of, int block_tokens)
      : test(in), shape(of), q_cols(std::int64_t{of.heads} * of.latent), width(of.latent + of.rope) {
    std::vector<std::int32_t> ids(100);
    std::iota(ids.begin(), ids.end(), 0);
    std::ranges::shuffle(ids, test.random);
    for (const std::int64_t length : lengths) {
      const auto blocks = static_cast<std::ptrdiff_t>(length / block_tokens + 1);
      sequences.push_back({length,
                           test.normal(length * q_cols),
                           test.normal(length * of.heads * of.rope),
                           test.normal(length * width),
                           {ids.end() - blocks, ids.end()}});
      ids.resize(ids.size() - static_cast<std::size_t>(blocks));
    }
    memory = test.blank(100, block_tokens * width);
    cache.k = memory.tensor.data;
    cache.block_tokens = block_tokens;
  }

  /// Writes and attends these pieces in one call; their outputs in order.
  std::vector<Numbers> step(const std::vector<Piece>& pieces) {
    Numbers q_latent;
    Numbers q_rope;
    Numbers rows;
    std::vector<SequenceRows> calls;
    std::int64_t total = 0;
    const auto append = [](Numbers& to, const Numbers& from, const Piece& piece, std::int64_t cols) {
      to.insert(to.end(), from.begin() + piece.first * cols, from.begin() + (piece.first + piece.rows) * cols);
    };
    for (const Piece& piece : pieces) {
      const Sequence& sequence = sequences[piece.sequence];
      append(q_latent, sequence.q_latent, piece, q_cols);
      append(q_rope, sequence.q_rope, piece, std::int64_t{shape.heads} * shape.rope);
      append(rows, sequence.rows, piece, width);
      calls.push_back({total, piece.rows, piece.first, sequence.blocks});
      total += piece.rows;
    }
    const Array a = test.on_device(q_latent, total, q_cols, 3);
    const Array b = test.on_device(q_rope, total, std::int64_t{shape.heads} * shape.rope, 2);
    const Array c = test.on_device(rows, total, width, 1);
    const Array out = test.blank(total, q_cols, 4);
    test.device->write_kv(c.tensor, c.tensor.col_range(width, 0), calls, cache);
    test.device->latent_attention(a.tensor, b.tensor, cache, calls, shape, out.tensor);
    const Numbers got = test.on_host(out);
    std::vector<Numbers> parts;
    for (const SequenceRows& part : calls) {
      parts.emplace_back(got.begin() + part.first_row * q_cols, got.begin() + (part.first_row + part.rows) * q_cols);
    }
    return parts;
  }

  /// A whole sequence by plain loops in double precision; bounds from the sizes of the sums' terms.
  void expect_attention(const Sequence& s, const Numbers& got) const {
    constexpr double epsilon = std::numeric_limits<float>::epsilon();
    for (std::int64_t position = 0; position < s.length; ++position) {
      for (std::int64_t head = 0; head < shape.heads; ++head) {
        std::vector<double> scores;
        double size = 0;
        for (std::int64_t p = 0; p <= position; ++p) {
          double score = 0;
          double terms = 0;
          for (std::int64_t c = 0; c < width; ++c) {
            const std::int64_t row = position * shape.heads + head;
            const float q = c < shape.latent ? s.q_latent[static_cast<std::size_t>(row * shape.latent + c)]
                                             : s.q_rope[static_cast<std::size_t>(row * shape.rope + c - shape.latent)];
            const double term = static_cast<double>(q) * s.rows[static_cast<std::size_t>(p * width + c)] * shape.scale;
            score += term;
            terms += std::abs(term);
          }
          scores.push_back(score);
          size = std::max(size, terms);
        }
        const double largest = std::ranges::max(scores);
        double sum = 0;
        for (double& score : scores) sum += score = std::exp(score - largest);
        const double relative = epsilon * (8 + 4 * size + std::sqrt(static_cast<double>(scores.size())));
        for (std::int64_t c = 0; c < shape.latent; ++c) {
          double value = 0;
          double terms = 0;
          for (std::size_t p = 0; p < scores.size(); ++p) {
            const double term = scores[p] / sum * s.rows[p * static_cast<std::size_t>(width) + std::size_t(c)];
            value += term;
            terms += std::abs(term);
          }
          ASSERT_NEAR(got[static_cast<std::size_t>(position * q_cols + head * shape.latent + c)], value,
                      relative * terms)
              << "position " << position << " head " << head << " column " << c;
        }
      }
    }
  }

  DeviceTest& test;
  LatentShape shape;
  std::int64_t q_cols;
  std::int64_t width;
  KvCache cache;
  Array memory;
  std::vector<Sequence> sequences;
};

TEST_P(DeviceTest, LatentAttentionIsTheSoftmaxOfWhatIsVisible) {
  for (const LatentShape& shape :
       {LatentShape{1, 1, 0, 1}, {4, 32, 8, 0.2F}, {3, 21, 5, 0.3F}, {16, 80, 16, 0.1F}, {70, 24, 8, 0.2F}}) {
    for (const int block_tokens : {16, 5}) {
      SCOPED_TRACE(std::to_string(shape.heads) + " heads of " + std::to_string(shape.latent) + " + " +
                   std::to_string(shape.rope) + ", blocks of " + std::to_string(block_tokens));
      Latent latent(*this, {1, 17, 130, 48}, shape, block_tokens);
      const auto out = latent.step({{3, 0, 48}, {0, 0, 1}, {2, 0, 130}, {1, 0, 17}});
      latent.expect_attention(latent.sequences[3], out[0]);
      latent.expect_attention(latent.sequences[0], out[1]);
      latent.expect_attention(latent.sequences[2], out[2]);
      latent.expect_attention(latent.sequences[1], out[3]);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(DeviceTest, LatentAttentionChunksAndNeighboursChangeNoBit) {
  for (const LatentShape& shape : {LatentShape{4, 32, 8, 0.2F}, {16, 36, 4, 0.2F}, {70, 16, 8, 0.3F}}) {
    Latent latent(*this, {170, 33, 97}, shape, 16);
    std::vector<Numbers> whole;
    for (std::size_t s = 0; s < latent.sequences.size(); ++s) {
      whole.push_back(latent.step({{s, 0, latent.sequences[s].length}})[0]);
    }
    // Again from an empty cache: random chunks, sequences together in random order.
    const Tensor& memory = latent.memory.tensor;
    device->upload(
        Numbers(static_cast<std::size_t>(memory.rows * memory.cols), std::numeric_limits<float>::quiet_NaN()), memory);
    Lengths done(latent.sequences.size());
    while (!std::ranges::equal(done, latent.sequences, {}, {}, &Latent::Sequence::length)) {
      std::vector<Piece> pieces;
      for (std::size_t s = 0; s < latent.sequences.size(); ++s) {
        const std::int64_t left = latent.sequences[s].length - done[s];
        if (left > 0) pieces.push_back({s, done[s], std::min(left, uniform(0, 1) == 0 ? 1 : uniform(1, 60))});
      }
      std::ranges::shuffle(pieces, random);
      const auto out = latent.step(pieces);
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        const Piece& piece = pieces[i];
        expect_same(out[i],
                    std::span(whole[piece.sequence])
                        .subspan(static_cast<std::size_t>(piece.first * latent.q_cols),
                                 static_cast<std::size_t>(piece.rows * latent.q_cols)),
                    "sequence " + std::to_string(piece.sequence) + ", rows " + std::to_string(piece.first) + " + " +
                        std::to_string(piece.rows));
        if (HasFatalFailure()) return;
        done[piece.sequence] += piece.rows;
      }
    }
  }
}

TEST_P(DeviceTest, LatentAttentionShowsNotANumber) {
  Latent latent(*this, {60}, {2, 8, 4, 0.3F}, 16);
  latent.sequences[0].rows[20 * 12 + 3] = std::numeric_limits<float>::quiet_NaN();
  const Numbers out = latent.step({{0, 0, 60}})[0];
  for (std::size_t p = 0; p < 60; ++p) {
    for (std::size_t c = 0; c < 16; ++c) EXPECT_EQ(std::isnan(out[p * 16 + c]), p >= 20) << p;
  }
  EXPECT_TRUE(latent.step({}).empty());
  EXPECT_THROW((void)latent.step({{0, 58, 2}, {0, 64, 0}, {0, 70, 0}}), std::invalid_argument);
}

TEST_P(DeviceTest, LinearByHeadMultipliesEachHeadsColumns) {
  for (const std::int64_t rows : {0, 1, 7, 130}) {
    const std::int64_t heads = 5;
    const std::int64_t inputs = 24;
    const std::int64_t outputs = 40;
    std::vector<std::unique_ptr<PackedMatrix>> weights;
    for (std::int64_t h = 0; h < heads; ++h) weights.push_back(packed(normal(outputs * inputs), outputs, inputs));
    const Array x = on_device(normal(rows * heads * inputs), rows, heads * inputs, 3);
    const Array together = blank(rows, heads * outputs, 1);
    const Array apart = blank(rows, heads * outputs);
    device->linear_by_head(x.tensor, weights, together.tensor);
    for (std::int64_t h = 0; h < heads; ++h) {
      device->linear(x.tensor.col_range(h * inputs, inputs), *weights[static_cast<std::size_t>(h)],
                     apart.tensor.col_range(h * outputs, outputs));
    }
    expect_same(on_host(together), on_host(apart), "together");
  }
  std::vector<std::unique_ptr<PackedMatrix>> weights;
  weights.push_back(packed(normal(6), 2, 3));
  weights.push_back(packed(normal(6), 3, 2));
  const Array x = blank(1, 6);
  EXPECT_THROW(device->linear_by_head(x.tensor, weights, x.tensor), std::invalid_argument);
}

}  // namespace
}  // namespace coterie
