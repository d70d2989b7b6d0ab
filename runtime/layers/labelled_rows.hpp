// Rows in a message, and the labels beside them that say whose they are.
#pragma once

#include "comm/message.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace coterie {

/// A view; the message owns the bytes. Labels are of a type that is copied byte by byte.
template <class Label>
struct RowsLabelledBy {
  std::span<std::byte> label_bytes;
  Tensor rows;

  RowsLabelledBy(std::span<std::byte> labels, const DeviceBytes& section, std::int64_t width, DType type)
      : label_bytes(labels),
        rows{section.address(), type, static_cast<std::int64_t>(labels.size() / sizeof(Label)), width, width} {}
  void set_labels(std::span<const Label> labels) const {
    std::memcpy(label_bytes.data(), labels.data(), label_bytes.size());
  }
  [[nodiscard]] std::vector<Label> labels() const {
    std::vector<Label> out(label_bytes.size() / sizeof(Label));
    if (!out.empty()) std::memcpy(out.data(), label_bytes.data(), label_bytes.size());
    return out;
  }
};

using LabelledRows = RowsLabelledBy<std::int32_t>;

}  // namespace coterie
