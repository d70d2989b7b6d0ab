// The CPU's rows by expert: what route() chose, in the order of the experts.
#include "kernels/cpu_device.hpp"

namespace coterie {

RowGroups CpuDevice::group(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                           const RouterBiases& biases) {
  grouped_ = route(in, weight, options, biases);
  const auto experts = static_cast<int>(weight.out_features()) - options.null_experts;
  order_ = order_by_expert(grouped_.experts, experts);
  grouped_rows_.resize(static_cast<std::size_t>(order_.first.back()));
  for (std::size_t i = 0; i < order_.place.size(); ++i) {
    if (order_.place[i] < 0) continue;
    grouped_rows_[static_cast<std::size_t>(order_.place[i])] =
        static_cast<std::int32_t>(i / static_cast<std::size_t>(options.top_k));
  }
  return {in.rows,
          options.top_k,
          experts,
          order_.first.data(),
          grouped_rows_.data(),
          order_.place.data(),
          grouped_.weights.data()};
}

void CpuDevice::add_experts(const Tensor& in, const RowGroups& groups, const ExpertSet& set, float factor,
                            const Tensor& x) {
  require_groups(groups, set, in);
  require_shape(x, in.rows, in.cols, "add_experts: the output");
  const std::int64_t pairs = groups.first[groups.experts];
  if (pairs == 0) return;
  float* numbers = pairs_.get<float>((2 * pairs + in.rows) * in.cols);
  const auto rows_at = [&](std::int64_t first, std::int64_t rows) {
    return Tensor{reinterpret_cast<std::byte*>(numbers + first * in.cols), DType::f32, rows, in.cols, in.cols};
  };
  const Tensor inputs = rows_at(0, pairs);
  const Tensor outputs = rows_at(pairs, pairs);
  const Tensor sums = rows_at(2 * pairs, in.rows);
  std::vector<ExpertRows> rows;
  for (int e = 0; e < groups.experts; ++e) {
    const std::int64_t first = groups.first[e];
    const std::int64_t count = groups.first[e + 1] - first;
    if (count > 0) rows.push_back({set.experts()[static_cast<std::size_t>(e)], first, count});
  }
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int64_t> of_row{0};
  std::vector<Contribution> contributions;
  std::vector<Contribution> whole;
  for (std::int64_t t = 0; t < in.rows; ++t) {
    for (std::int64_t i = t * groups.top_k; i < (t + 1) * groups.top_k; ++i) {
      if (groups.place[i] >= 0) contributions.push_back({groups.place[i], groups.weight[i] * factor});
    }
    offsets.push_back(static_cast<std::int64_t>(contributions.size()));
    if (offsets.back() > offsets[static_cast<std::size_t>(t)]) whole.push_back({static_cast<std::int32_t>(t), 1.0F});
    of_row.push_back(static_cast<std::int64_t>(whole.size()));
  }
  gather(in, {groups.row, static_cast<std::size_t>(pairs)}, inputs);
  experts(inputs, rows, outputs);
  combine(outputs, offsets, contributions, sums, false);
  combine(sums, of_row, whole, x, true);
}

}  // namespace coterie
