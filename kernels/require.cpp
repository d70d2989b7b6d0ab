#include "kernels/require.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace coterie {
namespace {

std::string text(const char* kind, std::int64_t rows, std::int64_t cols) {
  return std::string(kind) + " (" + std::to_string(rows) + ", " + std::to_string(cols) + ")";
}

const char* name(DType type) {
  return type == DType::f32 ? "f32" : "bf16";
}

}  // namespace

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void require_shape(const Tensor& tensor, DType type, std::int64_t rows, std::int64_t cols, const char* what) {
  if (tensor.type == type && tensor.rows == rows && tensor.cols == cols && (tensor.stride >= cols || rows < 2)) return;
  throw std::invalid_argument(std::string(what) + " is " + text(name(tensor.type), tensor.rows, tensor.cols) +
                              " with a stride of " + std::to_string(tensor.stride) + ", " +
                              text(name(type), rows, cols) + " was expected");
}

void require_sequences(std::span<const SequenceRows> sequences, const KvCache& cache, std::int64_t rows) {
  require(cache.block_tokens >= 1, "a cache block holds at least one position");
  for (const SequenceRows& sequence : sequences) {
    require(sequence.first_row >= 0 && sequence.rows >= 0 && sequence.first_row + sequence.rows <= rows,
            "a sequence's rows are outside the call's");
    const auto held = static_cast<std::int64_t>(sequence.blocks.size()) * cache.block_tokens;
    require(sequence.first_position >= 0 && sequence.first_position + sequence.rows <= held,
            "a sequence has fewer cache blocks than its positions need");
  }
}

void require_contributions(std::span<const std::int64_t> offsets, std::span<const Contribution> contributions,
                           std::int64_t rows) {
  require(std::ranges::is_sorted(offsets) && offsets.front() >= 0 &&
              offsets.back() <= static_cast<std::int64_t>(contributions.size()),
          "combine: the offsets don't fit the contributions");
  require(std::ranges::all_of(contributions, [&](const Contribution& c) { return c.row >= 0 && c.row < rows; }),
          "combine: a contribution is outside the input");
}

void require_sums(const RowSums& sums) {
  require(std::ranges::all_of(sums.rows,
                              [&](const RowSums::Row& row) {
                                return row.first >= 0 && row.first <= row.last &&
                                       row.last <= static_cast<std::int64_t>(sums.parts.size());
                              }),
          "sum_rows: a row's parts are not among the call's");
}

void require_router(const RouterOptions& options, const RouterBiases& biases, std::int64_t outputs) {
  require(options.groups >= 1 && outputs % options.groups == 0, "route: the groups don't divide the experts");
  require(options.top_groups >= 1 && options.top_groups <= options.groups,
          "route: top_groups is not in 1 to the number of groups");
  require(options.groups == 1 || options.group_score == GroupScore::largest || outputs / options.groups >= 2,
          "route: a group has fewer than two experts");
  require(options.top_k >= 1 && options.top_k <= outputs / options.groups * options.top_groups,
          "route: top_k is not in 1 to the number of experts in reach");
  require(options.null_experts >= 0 && options.null_experts < outputs, "route: there are only null experts");
  for (const Tensor& bias : {biases.logits, biases.choice}) {
    if (bias.data != nullptr) require_shape(bias, DType::f32, 1, outputs, "route: a bias");
  }
}

void require_sampling(const Tensor& logits, std::span<const RowSampling> rows) {
  require(logits.cols >= 1 && logits.cols <= largest_vocabulary, "sample: the vocabulary is empty or too large");
  for (const RowSampling& r : rows) {
    require(r.row >= 0 && r.row < logits.rows, "sample: a row is outside the logits");
    require(r.given < logits.cols, "sample: a token is outside the vocabulary");
    require(r.temperature >= 0 && std::isfinite(r.temperature), "sample: a temperature is negative or not finite");
    require(r.top_k >= 0 && r.top_p >= 0 && r.top_p <= 1, "sample: top_k or top_p make no sense");
    require(r.share >= 0 && r.share < 1, "sample: a share is not in [0, 1)");
  }
}

void require_gate(const Tensor& x, const PackedMatrix& weight, DType type, const Tensor& in, const Tensor& out) {
  require(weight.out_features() == 1, "gate: the weight has more than one row");
  require_shape(x, type, x.rows, weight.in_features(), "gate: the rows that it is computed from");
  require_shape(in, type, x.rows, in.cols, "gate: the input");
  require_shape(out, type, x.rows, in.cols, "gate: the output");
}

void require_attention(const AttentionShape& shape, const KvCache& cache) {
  require(shape.heads >= 1 && shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0 && shape.head_dim >= 1 &&
              shape.window >= 0,
          "attention: the shape makes no sense");
  require(cache.head_dim == 0 || cache.head_dim == shape.head_dim, "attention: the cache is of other heads");
}

void require_expert(const ExpertRows& group, const Tensor& in) {
  if (group.expert == nullptr) throw std::invalid_argument("experts: a group without an expert");
  require(group.rows >= 0 && group.first_row >= 0 && group.first_row + group.rows <= in.rows,
          "experts: a group is outside the input");
  const PackedMatrix& gate_up = *group.expert->gate_up;
  const PackedMatrix& down = *group.expert->down;
  require(gate_up.in_features() == in.cols && down.out_features() == in.cols &&
              gate_up.out_features() == 2 * down.in_features(),
          "experts: an expert's weights don't fit the rows");
  const DeviceArray& first = group.expert->gate_up_bias;
  const DeviceArray& second = group.expert->down_bias;
  if (first.memory) require_shape(first.view, in.type, 1, gate_up.out_features(), "experts: a bias of gate and up");
  if (second.memory) require_shape(second.view, in.type, 1, in.cols, "experts: a bias of down");
}

void require_groups(const RowGroups& groups, const ExpertSet& experts, const Tensor& in) {
  require(groups.rows == in.rows, "add_experts: the groups are of other rows");
  require(groups.experts == static_cast<int>(experts.experts().size()), "add_experts: the groups are of other experts");
  for (const ExpertWeights* expert : experts.experts()) require_expert({expert, 0, 0}, in);
}

void require_backward(const ExpertsBackward& rows, std::span<const ExpertRows> groups,
                      std::span<const ExpertGradients> gradients) {
  const Tensor& in = rows.in;
  const auto count = static_cast<std::size_t>(in.rows);
  const auto require_f32 = [](const Tensor& tensor, std::int64_t height, std::int64_t cols, const char* what) {
    require_shape(tensor, DType::f32, height, cols, what);
  };
  require_f32(in, in.rows, in.cols, "experts_backward: the input");
  require_f32(rows.out_gradient, in.rows, in.cols, "experts_backward: the output's gradient");
  require_f32(rows.in_gradient, in.rows, in.cols, "experts_backward: the input's gradient");
  require(rows.weights.size() == count && rows.weight_gradient.size() == count,
          "experts_backward: each row has one weight");
  require(groups.size() == gradients.size(), "experts_backward: each group has gradients");
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const ExpertRows& group = groups[g];
    require_expert(group, in);
    const std::int64_t width = group.expert->down->in_features();
    require_f32(gradients[g].gate_up, 2 * width, in.cols, "experts_backward: a gradient of gate and up");
    require_f32(gradients[g].down, in.cols, width, "experts_backward: a gradient of down");
    if (group.expert->gate_up_bias.memory) {
      require_f32(gradients[g].gate_up_bias, 1, 2 * width, "experts_backward: a gradient of gate's and up's bias");
    }
    if (group.expert->down_bias.memory) {
      require_f32(gradients[g].down_bias, 1, in.cols, "experts_backward: a gradient of down's bias");
    }
  }
}

HeadSizes require_heads(const Tensor& in, DType type, std::span<const std::unique_ptr<PackedMatrix>> weights,
                        const Tensor& out) {
  require(!weights.empty(), "linear_by_head: no heads");
  const auto heads = static_cast<std::int64_t>(weights.size());
  const HeadSizes sizes{weights.front()->in_features(), weights.front()->out_features()};
  require_shape(in, type, in.rows, heads * sizes.inputs, "linear_by_head: the input");
  require_shape(out, type, in.rows, heads * sizes.outputs, "linear_by_head: the output");
  for (const auto& weight : weights) {
    require(weight->in_features() == sizes.inputs && weight->out_features() == sizes.outputs,
            "linear_by_head: the heads differ");
  }
  return sizes;
}

}  // namespace coterie
