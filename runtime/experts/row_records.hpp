// Which rows a message brings and what is wanted of them, as bytes: the tags of all rows, then the routes of all rows.
#pragma once

#include "runtime/experts/dispatch.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

[[nodiscard]] std::uint64_t record_bytes(const RowsFor& rows) noexcept;
/// `out` has room for exactly so many bytes.
void write_records(const RowsFor& rows, std::span<std::byte> out);

/// (rows)
[[nodiscard]] std::vector<RowTag> tags_of(std::span<const std::byte> records, int top_k);
/// (rows, top_k), behind what is there.
void append_routes(std::span<const std::byte> records, int top_k, std::vector<Route>& routes);

}  // namespace coterie
