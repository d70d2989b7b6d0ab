#include "placement/report/report_page.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace coterie {
namespace {

using nlohmann::json;

constexpr std::size_t kAffinityBytes = 5'500'000;
constexpr int kTrafficGroups = 128;

std::string base64(const std::vector<std::uint8_t>& bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = bytes.size() - i;
    const std::uint32_t group = bytes[i] << 16U | (left > 1 ? bytes[i + 1] << 8U : 0) | (left > 2 ? bytes[i + 2] : 0);
    text += kDigits[group >> 18U];
    text += kDigits[group >> 12U & 63U];
    text += left > 1 ? kDigits[group >> 6U & 63U] : '=';
    text += left > 2 ? kDigits[group & 63U] : '=';
  }
  return text;
}

/// Four digits behind the point, and at least three that count: short in the page, and more than a screen shows.
double shortened(double value) {
  const double scale = std::max(1e4, std::pow(10, 2 - std::floor(std::log10(std::abs(value) + 1e-12))));
  return std::round(value * scale) / scale;
}

/// Rows of `width` values each.
json rows_of(const std::vector<double>& values, std::size_t width) {
  json rows = json::array();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i % width == 0) rows.push_back(json::array());
    rows.back().push_back(shortened(values[i]));
  }
  return rows;
}

/// A pair of layers as bytes: 255 for the pair's largest weight, falling with the square root, so that small weights
/// can be told from none.
json affinity_of(const Problem& problem) {
  std::vector<std::uint8_t> bytes;
  json largest = json::array();
  const std::vector<int> pairs = stored_pairs(problem);
  for (const int l : pairs) {
    const auto weight = problem.statistics.affinity_at(l);
    double total = 0;
    double most = 0;
    for (const double w : weight) {
      total += w;
      most = std::max(most, w);
    }
    for (const double w : weight) {
      bytes.push_back(most > 0 ? static_cast<std::uint8_t>(std::lround(255 * std::sqrt(w / most))) : 0);
    }
    largest.push_back(total > 0 ? shortened(most / total) : 0.0);
  }
  return {{"pairs", pairs}, {"largest", largest}, {"bytes", base64(bytes)}};
}

/// Rows from group to group per 1,000 tokens and layer.
std::vector<double> grouped_traffic(const std::vector<double>& traffic, const RankGroups& groups) {
  const std::size_t ranks = groups.group_of_rank.size();
  const std::size_t count = groups.names.size();
  std::vector<double> grouped(count * count, 0);
  for (std::size_t i = 0; i < traffic.size(); ++i) {
    grouped[groups.group_of_rank[i / ranks] * count + groups.group_of_rank[i % ranks]] += 1000 * traffic[i];
  }
  return grouped;
}

json plan_of(const std::string& name, const Problem& problem, const Owners& owners, const PlanFacts& facts,
             const RankGroups& traffic_groups) {
  json owner = json::array();
  for (const auto& layer : owners) {
    json row = json::array();
    for (const auto& ranks : layer) row.push_back(ranks.front());
    owner.push_back(std::move(row));
  }
  const auto ranks = static_cast<std::size_t>(problem.ranks());
  json held = json::array();
  for (std::size_t i = 0; i < facts.held.size(); ++i) {
    if (i % ranks == 0) held.push_back(json::array());
    held.back().push_back(facts.held[i]);
  }
  const std::size_t groups = facts.groups.names.size();
  json flow = json::array();
  for (std::size_t i = 0; i < facts.moves.size(); i += groups * groups) {
    const auto begin = facts.moves.begin() + static_cast<std::ptrdiff_t>(i);
    flow.push_back(rows_of({begin, begin + static_cast<std::ptrdiff_t>(groups * groups)}, groups));
  }
  json stays = json::array();
  for (const double s : facts.stays) stays.push_back(shortened(s));
  return {{"name", name},
          {"owner", std::move(owner)},
          {"kept", std::move(stays)},
          {"load", rows_of(facts.load, ranks)},
          {"held", std::move(held)},
          {"traffic", facts.traffic.empty()
                          ? json::array()
                          : rows_of(grouped_traffic(facts.traffic, traffic_groups), traffic_groups.names.size())},
          {"flow", std::move(flow)}};
}

json groups_of(const RankGroups& groups) {
  json list = json::array();
  for (std::size_t g = 0; g < groups.names.size(); ++g) {
    const std::string& name = groups.names[g];
    list.push_back({{"name", name}, {"short", name.substr(name.find(' ') + 1)}, {"node", groups.node_of_group[g]}});
  }
  return list;
}

}  // namespace

std::vector<int> stored_pairs(const Problem& problem) {
  std::vector<int> pairs;
  if (problem.statistics.affinity.empty()) return pairs;
  const std::size_t all = problem.statistics.affinity.size();
  const int step = static_cast<int>((all + kAffinityBytes - 1) / kAffinityBytes);
  for (int l = 0; l + 1 < problem.layers(); l += step) pairs.push_back(l);
  return pairs;
}

std::string report_data(const ReportData& data, const ReportFacts& facts) {
  const Problem& problem = *data.problem;
  const RankGroups traffic_groups = group_ranks(problem.topology, kTrafficGroups);
  const json all{{"experts", problem.experts()},
                 {"ranks", problem.ranks()},
                 {"layer_ids", data.layer_ids},
                 {"limit", problem.balance ? json(*problem.balance) : json(nullptr)},
                 {"affinity", affinity_of(problem)},
                 {"traffic", {{"groups", groups_of(traffic_groups)}, {"nodes", problem.topology.nodes()}}},
                 {"flow", {{"groups", groups_of(facts.after.groups)}}},
                 {"plans",
                  {plan_of(data.before_name, problem, data.before, facts.before, traffic_groups),
                   plan_of(data.after_name, problem, data.after, facts.after, traffic_groups)}}};
  // Inside a <script> the text must not contain "</script" or "<!--".
  std::string text;
  for (const char c : all.dump(-1, ' ', false, json::error_handler_t::replace)) {
    if (c == '<')
      text += "\\u003c";
    else
      text += c;
  }
  return text;
}

}  // namespace coterie
