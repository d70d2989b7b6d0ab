#include "runtime/layers/freight.hpp"

#include "runtime/layers/labelled_rows.hpp"

namespace coterie {

std::int64_t Freight::width() const {
  std::int64_t width = 0;
  for (const KvRows& rows : layers) width += rows.k.cols + rows.v.cols;
  return width;
}

std::uint64_t Freight::bytes(std::size_t rows, DType type) const {
  return rows * static_cast<std::uint64_t>(width()) * size_of(type);
}

void Freight::pack(Device& device, std::span<const std::int32_t> indices, std::span<const std::int32_t> labels,
                   Message& message) const {
  const LabelledRows out(message.section(Section::freight_labels), message.section(Bulk::freight), width(),
                         device.activation_type());
  out.set_labels(labels);
  std::int64_t col = 0;
  for (const KvRows& rows : layers) {
    for (const Tensor* from : {&rows.k, &rows.v}) {
      if (from->cols > 0) device.gather(*from, indices, out.rows.col_range(col, from->cols));
      col += from->cols;
    }
  }
}

Outbox Freight::for_peers(Device& device, const Domains& domains, const Batch& batch,
                          std::span<const std::int32_t> rows) const {
  Outbox out(static_cast<std::size_t>(domains.ranks_of_job()));
  const auto carried = carried_rows(batch, rows);
  if (carried.empty()) return out;
  std::vector<std::int32_t> labels;
  labels.reserve(carried.size());
  for (const std::int32_t i : carried) labels.push_back(rows[i]);
  const SectionSizes sizes = sizes_of({{Section::freight_labels, labels.size() * sizeof(std::int32_t)},
                                       {Bulk::freight, bytes(carried.size(), device.activation_type())}});
  for (const int rank : domains.peers()) {
    if (rank == domains.self()) continue;
    out[rank] = Message(sizes);
    pack(device, carried, labels, out[rank]);
  }
  return out;
}

void Freight::store(Device& device, const Batch& batch, Message& message) const {
  const auto section = message.section(Bulk::freight);
  if (section.empty()) return;
  const LabelledRows came(message.section(Section::freight_labels), section, width(), device.activation_type());
  const auto labels = came.labels();
  const auto sequences = sequence_rows(batch, labels);
  std::int64_t col = 0;
  for (const KvRows& rows : layers) {
    device.write_kv(came.rows.col_range(col, rows.k.cols), came.rows.col_range(col + rows.k.cols, rows.v.cols),
                    sequences, rows.cache);
    col += rows.k.cols + rows.v.cols;
  }
}

std::vector<std::int32_t> carried_rows(const Batch& batch, std::span<const std::int32_t> rows) {
  std::vector<std::int32_t> out;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (!batch.of(rows[i]).replicated) out.push_back(static_cast<std::int32_t>(i));
  }
  return out;
}

}  // namespace coterie
