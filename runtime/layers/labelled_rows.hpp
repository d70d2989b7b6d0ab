// A section of a message that holds rows and says whose they are: [labels, padded to 64 bytes][rows].
#pragma once

#include "kernels/tensor.hpp"

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace coterie {

/// A view; the message owns the bytes. Labels are of a type that is copied byte by byte.
template <class Label>
struct RowsLabelledBy {
  std::span<std::byte> labels_bytes;
  Tensor rows;

  [[nodiscard]] static std::uint64_t bytes(std::int64_t rows, std::int64_t width, DType type) {
    return label_bytes(rows) + static_cast<std::uint64_t>(rows * width) * size_of(type);
  }
  /// `section` has the size that bytes() says for some number of rows.
  RowsLabelledBy(std::span<std::byte> section, std::int64_t width, DType type) {
    const std::uint64_t row = static_cast<std::uint64_t>(width) * size_of(type);
    auto n = static_cast<std::int64_t>(section.size() / (row + sizeof(Label)));
    while (bytes(n, width, type) > section.size()) --n;
    labels_bytes = section.first(static_cast<std::size_t>(n) * sizeof(Label));
    rows = {section.data() + label_bytes(n), type, n, width, width};
  }
  void set_labels(std::span<const Label> labels) const {
    std::memcpy(labels_bytes.data(), labels.data(), labels_bytes.size());
  }
  [[nodiscard]] std::vector<Label> labels() const {
    std::vector<Label> out(labels_bytes.size() / sizeof(Label));
    if (!out.empty()) std::memcpy(out.data(), labels_bytes.data(), labels_bytes.size());
    return out;
  }

 private:
  static std::uint64_t label_bytes(std::int64_t rows) {
    return (static_cast<std::uint64_t>(rows) * sizeof(Label) + 63) / 64 * 64;
  }
};

using LabelledRows = RowsLabelledBy<std::int32_t>;

}  // namespace coterie
