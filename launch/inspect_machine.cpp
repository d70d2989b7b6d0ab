#include "launch/inspection.hpp"
#include "launch/text_page.hpp"
#include "placement/machine.hpp"
#include "placement/number_text.hpp"

namespace coterie {
namespace {

using nlohmann::json;

std::string link_text(const Link& link) {
  return metric(link.bandwidth) + "B/s, " + metric(link.latency) + "s to the first byte";
}

/// A weight of two bytes is worth two FLOP a row, so moving it takes as long as computing this many rows with it.
double rows_worth_a_move(double flop_per_second, const Link& link) {
  return flop_per_second / link.bandwidth;
}

}  // namespace

Inspection inspect_machine(const std::filesystem::path& path) {
  const Machine machine = read_machine(path);
  const LinkPrices prices = link_prices(machine);
  const double rate = machine.gemm.back().rate;
  Inspection found;
  TextPage page;
  page.fact("machine", path.string());
  page.fact("measured", machine.measured_on + "; by " + machine.measured_by + ", " + machine.measured_when);
  page.fact("inside node", link_text(machine.inside_node));
  page.fact("between", machine.between_nodes ? link_text(*machine.between_nodes) : "not measured: one node");
  page.fact("prices", "a row costs " + fixed(prices.inside_node, 2) + " inside a node and " +
                          fixed(prices.between_nodes, 2) + " between nodes" +
                          (machine.between_nodes ? "" : " (assumed)"));
  const bool memory_known = machine.memory_per_rank > 0;
  page.fact("memory",
            memory_known ? bytes_text(static_cast<double>(machine.memory_per_rank)) + " a rank" : "not known");
  std::string worth = "moving an expert's weights (of 2 bytes) takes as long as computing " +
                      grouped(rows_worth_a_move(rate, machine.inside_node)) + " rows with them inside a node";
  if (machine.between_nodes)
    worth += ", " + grouped(rows_worth_a_move(rate, *machine.between_nodes)) + " between nodes";
  page.fact("spills", worth);

  json gemm = json::array();
  std::vector<std::vector<std::string>> rows;
  for (const GemmRate& g : machine.gemm) {
    gemm.push_back({{"rows", g.rows}, {"flop_per_second", g.rate}});
    rows.push_back({grouped(static_cast<double>(g.rows)), metric(g.rate) + "FLOP/s"});
  }
  page.table({"rows", "matrix product"}, rows);
  const auto link_json = [&](const Link& link) {
    return json{{"latency_seconds", link.latency},
                {"bytes_per_second", link.bandwidth},
                {"rows_worth_a_weight_move", rows_worth_a_move(rate, link)}};
  };
  found.json = {
      {"kind", "machine"},
      {"file", path.string()},
      {"measured", {{"by", machine.measured_by}, {"when", machine.measured_when}, {"on", machine.measured_on}}},
      {"inside_node", link_json(machine.inside_node)},
      {"between_nodes", machine.between_nodes ? link_json(*machine.between_nodes) : json()},
      {"prices", {{"inside_node", prices.inside_node}, {"between_nodes", prices.between_nodes}}},
      {"gemm", gemm},
      {"memory_per_rank_bytes", memory_known ? json(machine.memory_per_rank) : json()}};
  found.text = page.text();
  return found;
}

}  // namespace coterie
