// What a cluster can do: links, matrix products, memory. File format: coterie.machine/1 (JSON).
#pragma once

#include "placement/problem.hpp"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

struct Link {
  double latency = 0;    ///< seconds
  double bandwidth = 0;  ///< bytes per second, one direction, of one rank
};

/// What a rank reaches in products with so many rows.
struct GemmRate {
  std::int64_t rows = 0;
  double rate = 0;  ///< FLOP per second
};

struct Machine {
  std::string measured_by;    ///< program and version
  std::string measured_when;  ///< ISO 8601
  std::string measured_on;    ///< hosts and devices, for people
  Link inside_node;
  std::optional<Link> between_nodes;  ///< none: measured on one node
  std::vector<GemmRate> gemm;         ///< by rising rows, at least one
  std::uint64_t memory_per_rank = 0;  ///< bytes; 0: not known

  /// FLOP per second for products with `rows` rows: between the measured ones on a straight line of time over rows,
  /// outside them the rate of the nearest.
  [[nodiscard]] double gemm_rate(double rows) const;
};

/// Throws InputError (file, field, found, expected): wrong format, a field missing, a figure that is not positive.
[[nodiscard]] Machine read_machine(const std::filesystem::path& path);
/// What a machine file holds.
[[nodiscard]] nlohmann::json machine_json(const Machine& machine);
/// Replaces `path` in one step. Throws InputError when it can't be written.
void write_machine(const std::filesystem::path& path, const Machine& machine);

/// A row's price by the bandwidth of the link, 1 inside a node and no less between nodes; without a link between nodes
/// the usual 8.
[[nodiscard]] LinkPrices link_prices(const Machine& machine);

}  // namespace coterie
