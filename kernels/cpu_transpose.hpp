// Rows of a weight to columns of a panel.
#pragma once

#include <cstdint>

namespace coterie {

/// Writes number k of row r to panel[k * width + r]; `stride` numbers from one row to the next.
void transpose(const std::uint16_t* rows, std::int64_t stride, std::int64_t count, std::int64_t cols,
               std::int64_t width, std::uint16_t* panel);
void transpose(const std::uint32_t* rows, std::int64_t stride, std::int64_t count, std::int64_t cols,
               std::int64_t width, std::uint32_t* panel);

}  // namespace coterie
