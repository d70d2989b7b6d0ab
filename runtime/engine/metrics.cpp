#include "runtime/engine/metrics.hpp"

#include "runtime/engine/host_memory.hpp"

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

namespace coterie {
namespace {

using nlohmann::json;

json phases_json(const PhaseSeconds& p) {
  return {{"attention", p.attention},
          {"router", p.router},
          {"exchange", p.exchange},
          {"experts", p.experts},
          {"head", p.head}};
}

double rate(double n, double of) {
  return of > 0 ? n / of : 0;
}

json counts_json(const StepCounts& c) {
  return {{"steps", c.steps},
          {"seconds", c.seconds},
          {"tokens", c.tokens},
          {"dense_rows", c.dense_rows},
          {"moved_rows", c.moved_rows},
          {"expert_rows", c.expert_rows},
          {"rows_sent", c.rows_sent},
          {"partial_sums_sent", c.sums_sent},
          {"freight_rows_sent", c.freight_sent}};
}

json spill_json(const SpillCounts& s) {
  return {{"calls",
           {{"skipped", s.skipped},
            {"paused", s.paused},
            {"balanced", s.balanced},
            {"not_worth_it", s.not_worth_it},
            {"spilled", s.spilled}}},
          {"rows_before", s.rows_before},
          {"rows_after", s.rows_after},
          {"heaviest_rank_rows_before", s.heaviest_before},
          {"heaviest_rank_rows_after", s.heaviest_after},
          {"experts_sent", s.experts_sent},
          {"experts_taken", s.experts_taken},
          {"weight_bytes_sent", s.weight_bytes_sent},
          {"cache_hits", s.cache_hits},
          {"predicted_seconds_before", s.predicted_before},
          {"predicted_seconds_after", s.predicted_after},
          {"measured_seconds", s.measured}};
}

/// Of all ranks: what they count for themselves summed, what all count alike once, the slowest rank's time.
json dispatch_json(const std::vector<json>& ranks) {
  json all = ranks[0]["rank"]["dispatch"];
  all.erase("rows_before");  // of one rank
  all.erase("rows_after");
  for (std::size_t r = 1; r < ranks.size(); ++r) {
    const json& mine = ranks[r]["rank"]["dispatch"];
    for (const char* field : {"experts_sent", "experts_taken", "weight_bytes_sent", "cache_hits"}) {
      all[field] = all[field].get<std::int64_t>() + mine[field].get<std::int64_t>();
    }
    all["measured_seconds"] = std::max(all["measured_seconds"].get<double>(), mine["measured_seconds"].get<double>());
  }
  return all;
}

json rank_json(const WorkMetrics& m) {
  json rank{{"prompt_rows", m.prompt_rows},
            {"decode_rows", m.decode_rows},
            {"generated", m.generated},
            {"seconds", phases_json(m.phases)},
            {"expert_rows_per_layer", m.expert_rows},
            {"dispatch", spill_json(m.spill)},
            {"domain", m.domain},
            {"kv_bytes", m.kv_bytes},
            {"kv_peak_bytes", m.kv_peak_bytes},
            {"peak_memory_bytes", peak_memory()}};
  for (const StepKind kind : {StepKind::prefill, StepKind::decode}) {
    rank[kStepKindNames[static_cast<std::size_t>(kind)]] = counts_json(m.of(kind));
  }
  return rank;
}

/// By Section and Bulk: labels count as what they are of.
constexpr const char* kSectionNames[kSections] = {"routes", "partial_sums", "freight", "weights", "note",
                                                  "rows",   "partial_sums", "freight", "weights"};

json traffic_json(const CountingCommunicator& counted) {
  json list = json::array();
  for (const auto& [key, t] : counted.traffic()) {
    json sections = json::object();
    for (std::size_t s = 0; s < kSections; ++s) {
      if (t.section_bytes[s] > 0)
        sections[kSectionNames[s]] = sections.value(kSectionNames[s], std::uint64_t{0}) + t.section_bytes[s];
    }
    list.push_back({{"kind", key.kind},
                    {"collective", key.collective},
                    {"layer", key.layer},
                    {"group", key.group},
                    {"calls", t.calls},
                    {"calls_of_all", t.calls_of_all},
                    {"messages", t.messages},
                    {"bytes", t.bytes},
                    {"section_bytes", sections}});
  }
  return list;
}

void add(json& sum, const json& more) {
  if (sum.is_null()) sum = 0;
  sum = more.is_number_float() ? json(sum.get<double>() + more.get<double>())
                               : json(sum.get<std::int64_t>() + more.get<std::int64_t>());
}

/// Adds what one rank sent to `total`. Messages and bytes add up over ranks; calls are the same on each.
void add_traffic(json& total, const json& sent, bool calls) {
  for (const char* field : {"calls", "calls_of_all"}) {
    if (calls) add(total[field], sent[field]);
  }
  for (const char* field : {"messages", "bytes"}) add(total[field], sent[field]);
  if (total["section_bytes"].is_null()) total["section_bytes"] = json::object();
  for (const auto& [section, bytes] : sent["section_bytes"].items()) add(total["section_bytes"][section], bytes);
}

/// Every collective at every place, over all ranks.
json collectives_json(const std::vector<json>& ranks, double steps) {
  std::map<std::tuple<std::string, std::string, int>, json> places;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    for (const json& sent : ranks[r]["traffic"]) {
      json& total = places[{sent["kind"], sent["collective"], sent["layer"]}];
      for (const char* field : {"kind", "collective", "layer"}) total[field] = sent[field];
      add_traffic(total, sent, r == 0);
    }
  }
  json list = json::array();
  for (auto& [key, total] : places) {
    for (const char* field : {"calls", "messages", "bytes"}) {
      total[std::string(field) + "_per_step"] = rate(total[field].get<double>(), steps);
    }
    list.push_back(std::move(total));
  }
  return list;
}

/// What a step of one kind costs, per layer and step or per token and layer, over all ranks.
json kind_json(const std::vector<json>& ranks, const std::string& kind, double layers) {
  json counts;
  json traffic{{"messages", 0}, {"bytes", 0}};
  // Per layer and step; the ranks of other domains may have had other kinds of steps.
  double exchanges = 0, of_all = 0, counts_gathers = 0;
  for (const json& one : ranks) {
    const json& mine = one["rank"][kind];
    for (const auto& [field, value] : mine.items()) {
      const bool largest = field == "steps" || field == "seconds";
      largest ? void(counts[field] = std::max(counts.value(field, value), value)) : add(counts[field], value);
    }
    double calls = 0, calls_of_all = 0, gathers = 0;
    for (const json& sent : one["traffic"]) {
      if (sent["group"] != kind || sent["layer"] < 0) continue;
      add_traffic(traffic, sent, false);
      const bool exchange = sent["kind"] == "exchange";
      (exchange ? calls : gathers) += sent["calls"].get<double>();
      if (exchange) calls_of_all += sent["calls_of_all"].get<double>();
    }
    exchanges = std::max(exchanges, rate(calls, mine["steps"].get<double>() * layers));
    of_all = std::max(of_all, rate(calls_of_all, mine["steps"].get<double>() * layers));
    counts_gathers = std::max(counts_gathers, rate(gathers, mine["steps"].get<double>() * layers));
  }
  const double steps = counts["steps"].get<double>() * layers;
  const double tokens = counts["tokens"].get<double>() * layers;
  counts["exchanges_per_layer_and_step"] = exchanges;
  counts["exchanges_of_all_ranks_per_layer_and_step"] = of_all;
  counts["counts_gathers_per_layer_and_step"] = counts_gathers;
  counts["messages_per_layer_and_step"] = rate(traffic["messages"].get<double>(), steps);
  counts["bytes_per_layer_and_step"] = {{"all", rate(traffic["bytes"].get<double>(), steps)}};
  for (const auto& [section, bytes] : traffic["section_bytes"].items()) {
    counts["bytes_per_layer_and_step"][section] = rate(bytes.get<double>(), steps);
  }
  for (const char* field : {"rows_sent", "partial_sums_sent", "freight_rows_sent"}) {
    counts[std::string(field) + "_per_token_and_layer"] = rate(counts[field].get<double>(), tokens);
  }
  counts["share_stayed"] = 1 - rate(counts["moved_rows"].get<double>(), counts["dense_rows"].get<double>());
  return counts;
}

/// Every sequence's keys and values are on all ranks of its domain.
json kv_json(const std::vector<json>& ranks) {
  std::map<int, json> domains;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const json& rank = ranks[r]["rank"];
    json& domain = domains[rank["domain"].get<int>()];
    domain["ranks"].push_back(r);
    domain["bytes_per_rank"] = rank["kv_bytes"];
    domain["peak_bytes_per_rank"] = rank["kv_peak_bytes"];
  }
  json list = json::array();
  for (auto& [index, domain] : domains) list.push_back(std::move(domain));
  return list;
}

}  // namespace

json gather_metrics(Communicator& comm, const CountingCommunicator& counted, const WorkMetrics& mine) {
  const std::string text = json{{"rank", rank_json(mine)}, {"traffic", traffic_json(counted)}}.dump();
  const auto gathered = comm.all_gather(std::as_bytes(std::span(text)), {"metrics"});
  if (comm.rank() != 0) return nullptr;

  std::vector<json> ranks;
  json of_ranks = json::array();
  json phases = phases_json({});
  for (const auto& bytes : gathered) {
    ranks.push_back(json::parse(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
    of_ranks.push_back(ranks.back()["rank"]);
    for (auto& [phase, seconds] : phases.items()) {
      seconds = seconds.get<double>() + of_ranks.back()["seconds"][phase].get<double>() / comm.ranks();
    }
  }
  const auto sum = [&](const char* field) {
    std::int64_t total = 0;
    for (const json& r : of_ranks) total += r[field].get<std::int64_t>();
    return total;
  };
  const auto layers = static_cast<double>(mine.expert_rows.size());
  const json prefill = kind_json(ranks, "prefill", layers);
  const json decode = kind_json(ranks, "decode", layers);
  return {{"steps", mine.steps()},
          {"tokens", {{"prompt", sum("prompt_rows")}, {"generated", sum("generated")}}},
          {"tokens_per_second",
           {{"prefill", rate(static_cast<double>(sum("prompt_rows")), prefill["seconds"].get<double>())},
            {"decode", rate(decode["tokens"].get<double>(), decode["seconds"].get<double>())}}},
          {"seconds_by_phase", phases},
          {"prefill", prefill},
          {"decode", decode},
          {"dispatch", dispatch_json(ranks)},
          {"kv_memory", kv_json(ranks)},
          {"collectives", collectives_json(ranks, static_cast<double>(mine.steps()))},
          {"ranks", of_ranks}};
}

}  // namespace coterie
