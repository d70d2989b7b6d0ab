#include "launch/inspection.hpp"
#include "launch/text_page.hpp"
#include "placement/number_text.hpp"
#include "placement/trace/load_trace.hpp"
#include "placement/trace/trace_facts.hpp"

#include <algorithm>
#include <numeric>

namespace coterie {
namespace {

using nlohmann::json;

template <typename Facts, typename Member>
double mean_of(const std::vector<Facts>& facts, Member member) {
  const double sum =
      std::accumulate(facts.begin(), facts.end(), 0.0, [&](double s, const Facts& f) { return s + f.*member; });
  return facts.empty() ? 0 : sum / static_cast<double>(facts.size());
}

std::string experts_text(int layers, const std::vector<int>& ids, int top_k, int experts) {
  return std::to_string(layers) + " MoE layers (" + ranges_text(ids) + "), top " + std::to_string(top_k) + " of " +
         std::to_string(experts) + " experts";
}

void tell_load(const std::vector<LoadSkew>& skew, const std::vector<int>& layer_ids, TextPage& page) {
  const auto worst =
      std::max_element(skew.begin(), skew.end(), [](auto& a, auto& b) { return a.heaviest < b.heaviest; });
  const int idle =
      std::accumulate(skew.begin(), skew.end(), 0, [](int sum, const LoadSkew& s) { return sum + s.idle; });
  page.fact("load", "the heaviest expert of a layer has " + fixed(mean_of(skew, &LoadSkew::heaviest), 2) +
                        " times the mean; at worst " + fixed(worst->heaviest, 2) + " times (layer " +
                        std::to_string(layer_ids[worst - skew.begin()]) + "); " +
                        (idle == 0 ? "no expert is idle" : std::to_string(idle) + " experts are idle"));
}

json skew_json(const LoadSkew& skew) {
  return {{"heaviest", skew.heaviest}, {"lightest", skew.lightest}, {"idle", skew.idle}};
}

/// Lengths of the runs of tokens of one sequence.
std::vector<std::int64_t> sequence_lengths(const Trace& trace) {
  std::vector<std::int64_t> lengths;
  for (std::size_t t = 0; t < trace.sequence.size(); ++t) {
    if (t == 0 || trace.sequence[t] != trace.sequence[t - 1]) lengths.push_back(0);
    ++lengths.back();
  }
  return lengths;
}

void tell_sequences(const Trace& trace, TextPage& page, json& out) {
  const auto lengths = sequence_lengths(trace);
  out["sequences"] = lengths.empty() ? json(nullptr) : json(lengths.size());
  if (lengths.empty()) {
    page.fact("sequences", "not told apart");
    return;
  }
  const auto [least, most] = std::minmax_element(lengths.begin(), lengths.end());
  page.fact("sequences", grouped(static_cast<double>(lengths.size())) + " of " + grouped(static_cast<double>(*least)) +
                             " to " + grouped(static_cast<double>(*most)) + " tokens");
}

void tell_affinity(const std::vector<AffinityStrength>& strength, TextPage& page) {
  if (strength.empty()) return;
  page.fact("affinity",
            "an expert's likeliest successor gets " + percent(mean_of(strength, &AffinityStrength::top_successor)) +
                " of what follows it (" + percent(mean_of(strength, &AffinityStrength::independent)) +
                " if layers were independent); " + fixed(mean_of(strength, &AffinityStrength::mutual_information), 2) +
                " bits between layers");
}

void tell_repeats(const std::vector<RoutingConsistency>& repeats, TextPage& page) {
  if (repeats.empty()) return;
  page.fact("repeats", "a token chooses " + percent(mean_of(repeats, &RoutingConsistency::overlap)) +
                           " of the experts of the token before it (" +
                           percent(mean_of(repeats, &RoutingConsistency::independent)) + " by chance)");
}

}  // namespace

Inspection inspect_trace(const std::filesystem::path& path) {
  const Trace trace = read_trace(path);
  const std::vector<WeightedTrace> all{{&trace, 1, 0, -1}};
  CountOptions options;
  options.by_gate = false;
  const Statistics statistics = count(all, options);
  const auto strength = affinity_strength(statistics);
  const auto skew = load_skew(statistics);
  const auto repeats = routing_consistency(trace);
  const auto empty = static_cast<double>(std::count(trace.experts.begin(), trace.experts.end(), Trace::kNoExpert));
  const double padded = empty / static_cast<double>(trace.experts.size());

  Inspection found;
  found.json = {{"kind", "trace"},
                {"file", path.string()},
                {"model", trace.model},
                {"layers", trace.layers()},
                {"layer_ids", trace.layer_ids},
                {"experts", trace.num_experts},
                {"top_k", trace.top_k},
                {"tokens", trace.tokens()},
                {"gate_order", trace.gate_order == GateOrder::descending ? "descending" : "unordered"},
                {"gate_weights", !trace.weights.empty()},
                {"empty_choices", padded},
                {"by_layer", json::array()}};
  TextPage page;
  page.fact("trace", path.string());
  page.fact("model", trace.model);
  page.fact("shape", grouped(static_cast<double>(trace.tokens())) + " tokens, " +
                         experts_text(trace.layers(), trace.layer_ids, trace.top_k, trace.num_experts));
  tell_sequences(trace, page, found.json);
  page.fact("choices",
            std::string(trace.gate_order == GateOrder::descending ? "by falling gate weight" : "in no order") +
                (trace.weights.empty() ? ", without gate weights" : ", with gate weights") +
                (padded > 0 ? "; " + percent(padded) + " empty" : ""));
  tell_affinity(strength, page);
  tell_load(skew, trace.layer_ids, page);
  tell_repeats(repeats, page);

  std::vector<std::vector<std::string>> rows;
  for (int l = 0; l < trace.layers(); ++l) {
    json layer{{"layer", trace.layer_ids[l]}, {"load", skew_json(skew[l])}};
    std::vector<std::string> row{std::to_string(trace.layer_ids[l]), fixed(skew[l].heaviest, 2),
                                 fixed(skew[l].lightest, 2), std::to_string(skew[l].idle)};
    if (l + 1 < trace.layers()) {
      layer["affinity"] = {{"top_successor", strength[l].top_successor},
                           {"independent", strength[l].independent},
                           {"mutual_information_bits", strength[l].mutual_information}};
      row.insert(row.end(), {percent(strength[l].top_successor), percent(strength[l].independent),
                             fixed(strength[l].mutual_information, 2)});
    } else {
      row.insert(row.end(), {"", "", ""});
    }
    if (!repeats.empty()) {
      layer["repeats"] = {{"overlap", repeats[l].overlap}, {"independent", repeats[l].independent}};
      row.insert(row.end(), {percent(repeats[l].overlap), percent(repeats[l].independent)});
    }
    found.json["by_layer"].push_back(std::move(layer));
    rows.push_back(std::move(row));
  }
  std::vector<std::string> head{"layer", "max/mean", "min/mean", "idle", "successor", "(chance)", "bits"};
  if (!repeats.empty()) head.insert(head.end(), {"repeats", "(chance)"});
  page.table(head, rows);
  found.text = page.text();
  return found;
}

Inspection inspect_load_trace(const std::filesystem::path& path) {
  const LoadTrace trace = read_load_trace(path);
  const Statistics statistics = count(trace);
  const auto skew = load_skew(statistics);
  Inspection found;
  found.json = {{"kind", "load trace"},     {"file", path.string()},        {"model", trace.model},
                {"layers", trace.layers()}, {"layer_ids", trace.layer_ids}, {"experts", trace.num_experts},
                {"top_k", trace.top_k},     {"records", trace.records()},   {"tokens", statistics.tokens},
                {"by_layer", json::array()}};
  TextPage page;
  page.fact("load trace", path.string());
  page.fact("model", trace.model);
  page.fact("shape", grouped(static_cast<double>(trace.records())) + " records of " + grouped(statistics.tokens) +
                         " tokens, " + experts_text(trace.layers(), trace.layer_ids, trace.top_k, trace.num_experts));
  tell_load(skew, trace.layer_ids, page);
  std::vector<std::vector<std::string>> rows;
  for (int l = 0; l < trace.layers(); ++l) {
    found.json["by_layer"].push_back({{"layer", trace.layer_ids[l]}, {"load", skew_json(skew[l])}});
    rows.push_back({std::to_string(trace.layer_ids[l]), fixed(skew[l].heaviest, 2), fixed(skew[l].lightest, 2),
                    std::to_string(skew[l].idle)});
  }
  page.table({"layer", "max/mean", "min/mean", "idle"}, rows);
  page.note("Counts alone: enough to balance load, not to place by affinity or traffic.");
  found.text = page.text();
  return found;
}

}  // namespace coterie
