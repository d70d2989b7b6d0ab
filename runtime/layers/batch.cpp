#include "runtime/layers/batch.hpp"

namespace coterie {

std::vector<SequenceRows> sequence_rows(const Batch& batch, std::span<const std::int32_t> rows) {
  std::vector<SequenceRows> out;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const bool goes_on = i > 0 && rows[i] == rows[i - 1] + 1 && batch.sequence[rows[i]] == batch.sequence[rows[i - 1]];
    if (goes_on) {
      ++out.back().rows;
    } else {
      out.push_back({static_cast<std::int64_t>(i), 1, batch.position(rows[i]), batch.of(rows[i]).blocks});
    }
  }
  return out;
}

std::vector<std::int64_t> positions_of(const Batch& batch, std::span<const std::int32_t> rows) {
  std::vector<std::int64_t> out;
  for (const std::int32_t row : rows) out.push_back(batch.position(row));
  return out;
}

}  // namespace coterie
