#include "runtime/experts/row_records.hpp"

#include <cstring>

namespace coterie {
namespace {

template <class T>
void copy_to(std::span<const std::byte> bytes, T* out) {
  if (!bytes.empty()) std::memcpy(out, bytes.data(), bytes.size());
}

std::size_t rows_of(std::span<const std::byte> records, int top_k) {
  return records.size() / (sizeof(RowTag) + static_cast<std::size_t>(top_k) * sizeof(Route));
}

}  // namespace

std::uint64_t record_bytes(const RowsFor& rows) noexcept {
  return rows.tags.size() * sizeof(RowTag) + rows.routes.size() * sizeof(Route);
}

void write_records(const RowsFor& rows, std::span<std::byte> out) {
  const auto tags = std::as_bytes(std::span(rows.tags)), routes = std::as_bytes(std::span(rows.routes));
  copy_to(tags, out.data());
  copy_to(routes, out.data() + tags.size());
}

std::vector<RowTag> tags_of(std::span<const std::byte> records, int top_k) {
  std::vector<RowTag> tags(rows_of(records, top_k));
  copy_to(records.first(tags.size() * sizeof(RowTag)), tags.data());
  return tags;
}

void append_routes(std::span<const std::byte> records, int top_k, std::vector<Route>& routes) {
  const std::size_t rows = rows_of(records, top_k), before = routes.size();
  routes.resize(before + rows * static_cast<std::size_t>(top_k));
  copy_to(records.subspan(rows * sizeof(RowTag), rows * static_cast<std::size_t>(top_k) * sizeof(Route)),
          routes.data() + before);
}

}  // namespace coterie
