// What every device asks of its callers. Each throws std::invalid_argument that says what doesn't hold.
#pragma once

#include "kernels/device.hpp"

#include <cstdint>
#include <memory>
#include <span>

namespace coterie {

/// `what` names it.
void require(bool holds, const char* what);
/// Of this type, these rows and columns.
void require_shape(const Tensor& tensor, DType type, std::int64_t rows, std::int64_t cols, const char* what);
/// Sequences that are inside the rows of the call, and whose blocks hold their positions.
void require_sequences(std::span<const SequenceRows> sequences, const KvCache& cache, std::int64_t rows);
/// Offsets that ascend inside the contributions, which are of `rows` rows.
void require_contributions(std::span<const std::int64_t> offsets, std::span<const Contribution> contributions,
                           std::int64_t rows);
/// Rows whose parts there are.
void require_sums(const RowSums& sums);
/// Options that a choice among so many outputs can follow.
void require_router(const RouterOptions& options, const RouterBiases& biases, std::int64_t outputs);
/// Rows, tokens and options that sample() can follow.
void require_sampling(const Tensor& logits, std::span<const RowSampling> rows);
/// What gate() gets: a weight of one row, and as many rows everywhere.
void require_gate(const Tensor& x, const PackedMatrix& weight, DType type, const Tensor& in, const Tensor& out);
/// A shape that makes sense, and a cache of such heads.
void require_attention(const AttentionShape& shape, const KvCache& cache);
/// A group inside the rows, of an expert whose weights and biases fit them.
void require_expert(const ExpertRows& group, const Tensor& in);
/// Groups of `in`'s rows, for as many experts as the set has.
void require_groups(const RowGroups& groups, const ExpertSet& experts, const Tensor& in);
/// Rows and gradients of one shape, for groups inside the rows; all in f32.
void require_backward(const ExpertsBackward& rows, std::span<const ExpertRows> groups,
                      std::span<const ExpertGradients> gradients);

/// Of linear_by_head's matrices.
struct HeadSizes {
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
};
/// Matrices of equal sizes, which fit the rows.
HeadSizes require_heads(const Tensor& in, DType type, std::span<const std::unique_ptr<PackedMatrix>> weights,
                        const Tensor& out);

}  // namespace coterie
