#include "runtime/metrics.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <span>
#include <string>

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

json rank_json(const WorkMetrics& m) {
  return {{"prompt_rows", m.prompt_rows},
          {"decode_rows", m.decode_rows},
          {"pure_decode_rows", m.pure_decode_rows},
          {"generated", m.generated},
          {"prefill_seconds", m.prefill_seconds},
          {"decode_seconds", m.decode_seconds},
          {"seconds", phases_json(m.phases)},
          {"dense_rows", m.dense_rows},
          {"moved_rows", m.moved_rows},
          {"expert_rows_per_layer", m.expert_rows},
          {"kv_bytes", m.kv_bytes},
          {"kv_peak_bytes", m.kv_peak_bytes},
          {"peak_memory_bytes", peak_memory()}};
}

constexpr const char* kSectionNames[kSections] = {"rows", "routes", "partial_sums", "freight", "weights"};

json traffic_json(const CountingCommunicator& counted) {
  json list = json::array();
  for (const auto& [key, t] : counted.traffic()) {
    json sections = json::object();
    for (std::size_t s = 0; s < kSections; ++s) {
      if (t.section_bytes[s] > 0) sections[kSectionNames[s]] = t.section_bytes[s];
    }
    list.push_back({{"kind", key.kind},
                    {"collective", key.collective},
                    {"layer", key.layer},
                    {"calls", t.calls},
                    {"messages", t.messages},
                    {"bytes", t.bytes},
                    {"section_bytes", sections}});
  }
  return list;
}

/// Adds the traffic of one more rank: calls are the same on every rank, messages and bytes add up.
void add_traffic(json& total, const json& more) {
  for (std::size_t i = 0; i < total.size(); ++i) {
    for (const char* field : {"messages", "bytes"}) {
      total[i][field] = total[i][field].get<std::int64_t>() + more[i][field].get<std::int64_t>();
    }
    for (const auto& [section, bytes] : more[i]["section_bytes"].items()) {
      json& sum = total[i]["section_bytes"][section];
      sum = (sum.is_null() ? 0 : sum.get<std::int64_t>()) + bytes.get<std::int64_t>();
    }
  }
}

double rate(double n, double seconds) {
  return seconds > 0 ? n / seconds : 0;
}

}  // namespace

std::int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

json gather_metrics(Communicator& comm, const CountingCommunicator& counted, const WorkMetrics& mine) {
  const std::string text = json{{"rank", rank_json(mine)}, {"traffic", traffic_json(counted)}}.dump();
  const auto gathered = comm.all_gather(std::as_bytes(std::span(text)), {"metrics"});
  if (comm.rank() != 0) return nullptr;

  json ranks = json::array();
  json traffic;
  json phases = phases_json({});
  double prefill = 0;
  double decode = 0;
  std::int64_t prompt_rows = 0;
  std::int64_t pure_decode_rows = 0;
  std::int64_t generated = 0;
  for (const auto& bytes : gathered) {
    const json one = json::parse(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    const json& r = one["rank"];
    if (traffic.is_null()) {
      traffic = one["traffic"];
    } else {
      add_traffic(traffic, one["traffic"]);
    }
    for (auto& [phase, seconds] : phases.items()) {
      seconds = seconds.get<double>() + r["seconds"][phase].get<double>() / comm.ranks();
    }
    prefill = std::max(prefill, r["prefill_seconds"].get<double>());
    decode = std::max(decode, r["decode_seconds"].get<double>());
    prompt_rows += r["prompt_rows"].get<std::int64_t>();
    pure_decode_rows += r["pure_decode_rows"].get<std::int64_t>();
    generated += r["generated"].get<std::int64_t>();
    ranks.push_back(r);
  }
  for (json& t : traffic) {
    t["calls_per_step"] = rate(t["calls"].get<double>(), static_cast<double>(mine.steps));
    t["bytes_per_step"] = rate(t["bytes"].get<double>(), static_cast<double>(mine.steps));
  }
  return {{"steps", mine.steps},
          {"tokens", {{"prompt", prompt_rows}, {"generated", generated}}},
          {"tokens_per_second",
           {{"prefill", rate(static_cast<double>(prompt_rows), prefill)},
            {"decode", rate(static_cast<double>(pure_decode_rows), decode)}}},
          {"seconds_by_phase", phases},
          {"collectives", traffic},
          {"ranks", ranks}};
}

}  // namespace coterie
