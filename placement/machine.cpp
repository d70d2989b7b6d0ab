#include "placement/machine.hpp"

#include "placement/files/json_view.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/input_error.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

constexpr const char* kFormat = "coterie.machine/1";
constexpr std::int64_t kMostRows = std::int64_t{1} << 40;
constexpr std::int64_t kMostBytes = std::int64_t{1} << 60;

double positive(const JsonView& place) {
  const double value = place.number();
  if (!std::isfinite(value) || value <= 0) throw place.error("a number above 0");
  return value;
}

Link read_link(const JsonView& place) {
  const double latency = place["latency_seconds"].number();
  if (!std::isfinite(latency) || latency < 0) throw place["latency_seconds"].error("a number of at least 0");
  return {latency, positive(place["bytes_per_second"])};
}

std::vector<GemmRate> read_rates(const JsonView& place) {
  std::vector<GemmRate> rates;
  for (std::size_t i = 0; i < place.size(); ++i) {
    const GemmRate rate{place[i]["rows"].integer(1, kMostRows), positive(place[i]["flop_per_second"])};
    if (!rates.empty() && rate.rows <= rates.back().rows) throw place[i]["rows"].error("more than the entry before");
    rates.push_back(rate);
  }
  if (rates.empty()) throw place.error("at least one entry");
  return rates;
}

nlohmann::json written(const Link& link) {
  return {{"latency_seconds", link.latency}, {"bytes_per_second", link.bandwidth}};
}

}  // namespace

double Machine::gemm_rate(double rows) const {
  const auto above = std::find_if(gemm.begin(), gemm.end(), [&](const GemmRate& g) { return g.rows >= rows; });
  if (above == gemm.begin()) return above->rate;
  const GemmRate& low = *std::prev(above);
  if (above == gemm.end()) return low.rate;
  // Time of one product per FLOP of a row, which is what grows steadily with the rows.
  const double before = static_cast<double>(low.rows) / low.rate;
  const double after = static_cast<double>(above->rows) / above->rate;
  const double part = (rows - static_cast<double>(low.rows)) / static_cast<double>(above->rows - low.rows);
  return rows / (before + part * (after - before));
}

Machine read_machine(const std::filesystem::path& path) {
  const nlohmann::json json = read_json(path);
  const std::string where = path.string();
  const JsonView file(json, where);
  if (file["format"].text() != kFormat) throw file["format"].error(kFormat);
  Machine machine;
  const JsonView measured = file["measured"];
  machine.measured_by = measured["by"].text();
  machine.measured_when = measured["when"].text();
  machine.measured_on = measured["on"].text();
  machine.inside_node = read_link(file["inside_node"]);
  if (file.has("between_nodes")) machine.between_nodes = read_link(file["between_nodes"]);
  machine.gemm = read_rates(file["gemm"]);
  if (file.has("memory_per_rank_bytes")) {
    machine.memory_per_rank = static_cast<std::uint64_t>(file["memory_per_rank_bytes"].integer(1, kMostBytes));
  }
  return machine;
}

nlohmann::json machine_json(const Machine& machine) {
  nlohmann::json gemm = nlohmann::json::array();
  for (const GemmRate& g : machine.gemm) gemm.push_back({{"rows", g.rows}, {"flop_per_second", g.rate}});
  return {{"format", kFormat},
          {"measured", {{"by", machine.measured_by}, {"when", machine.measured_when}, {"on", machine.measured_on}}},
          {"inside_node", written(machine.inside_node)},
          {"between_nodes", machine.between_nodes ? written(*machine.between_nodes) : nlohmann::json()},
          {"gemm", gemm},
          {"memory_per_rank_bytes",
           machine.memory_per_rank > 0 ? nlohmann::json(machine.memory_per_rank) : nlohmann::json()}};
}

void write_machine(const std::filesystem::path& path, const Machine& machine) {
  replace_file(path, machine_json(machine).dump(2) + "\n");
}

LinkPrices link_prices(const Machine& machine) {
  LinkPrices prices;
  if (machine.between_nodes)
    prices.between_nodes = std::max(1.0, machine.inside_node.bandwidth / machine.between_nodes->bandwidth);
  return prices;
}

}  // namespace coterie
