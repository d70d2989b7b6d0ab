// K and V rows on their way to the other ranks of the coherence domain: they ride in the layers' exchanges.
#pragma once

#include "comm/message.hpp"
#include "runtime/layers/batch.hpp"
#include "runtime/layers/domains.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// What one layer computed for the cache: rows of a step, and where they belong.
struct KvRows {
  Tensor k;  ///< (rows, cached_k)
  Tensor v;  ///< (rows, cached_v); no columns where the cache holds one row for both
  KvCache cache;
};

/// Rows of the layers since the last exchange, of the same tokens; more than one layer where dense ones lie between.
struct Freight {
  std::vector<KvRows> layers;

  /// Elements of one token.
  [[nodiscard]] std::int64_t width() const;
  /// Bytes of the numbers of so many rows in a message.
  [[nodiscard]] std::uint64_t bytes(std::size_t rows, DType type) const;
  /// Writes the rows with these indices, and a label for each, to a message with room for them.
  void pack(Device& device, std::span<const std::int32_t> indices, std::span<const std::int32_t> labels,
            Message& message) const;
  /// Messages of an exchange that carries nothing else: these rows for each other rank of this rank's domain.
  [[nodiscard]] Outbox for_peers(Device& device, const Domains& domains, const Batch& batch,
                                 std::span<const std::int32_t> rows) const;
  /// Writes rows that came from another rank to this rank's cache. `batch` says whose they are.
  void store(Device& device, const Batch& batch, Message& message) const;
};

/// Indices of the rows whose K and V the rest of the domain lacks: those that are not on all its ranks.
[[nodiscard]] std::vector<std::int32_t> carried_rows(const Batch& batch, std::span<const std::int32_t> rows);

}  // namespace coterie
