// Which ranks are near one another: on one host, or, in racks whose NVLinks go beyond a host, in one NVLink domain.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace coterie {

/// The domain of a GPU whose NVLinks go beyond its host, by the GPU's PCI id; empty for others, and without a driver.
[[nodiscard]] std::string nvlink_domain(const std::string& bus_id);

/// (ranks): nodes numbered by their lowest rank. Ranks are on one node if they are on one host (equal in `hosts`) or in
/// one domain (equal and not empty).
[[nodiscard]] std::vector<int> nodes_of(std::span<const int> hosts, std::span<const std::string> domains);

}  // namespace coterie
