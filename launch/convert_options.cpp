#include "launch/convert_options.hpp"

#include "launch/given_options.hpp"
#include "placement/input_error.hpp"

#include <boost/program_options.hpp>

#include <algorithm>
#include <functional>
#include <sstream>

namespace coterie {
namespace {

namespace po = boost::program_options;

constexpr int kMostLayers = 65535;

po::typed_value<std::string>* text(const char* shown) {
  return po::value<std::string>()->value_name(shown);
}

po::options_description visible_options() {
  po::options_description all("Options", 110, 80);
  all.add_options()("output,o", text("FILE"), "what is written; replaced in one step")(
      "from", text("FORMAT"), "format of the input, where its content doesn't show it")(
      "to", text("FORMAT"), "format of the output; without: coterie-trace, coterie-load or coterie-plan")(
      "model", text("NAME"), "name of the model")("experts", text("N"), "experts of a layer")("top-k", text("N"),
                                                                                              "experts of a token")(
      "layer-ids", text("LIST"), "the MoE layers, such as 3-60 or 0,2,4: where the file only counts them")(
      "dense-layers", text("LIST"), "layers of the model without experts, such as 0-2")(
      "num-hidden-layers", text("N"), "layers of the model, dense ones too")("ranks", text("N"), "ranks of the plan")(
      "nodes", text("N"), "nodes that the ranks are spread over, evenly or the first with one more (default 1)")(
      "gate-order", text("ORDER"), "how a token's experts stand: descending (by gate weight) or unordered")(
      "router", text("KIND"), "for logits: softmax or softmax-normalized (over the chosen)")(
      "fill", "put replicas into empty slots where the target has none")("help,h", "this text");
  return all;
}

std::string range_text(int least, int most) {
  return "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
}

/// From 1.
int number_of(const GivenOptions& given, const std::string& name, int otherwise, int most) {
  return given.has(name) ? given.number(name, 1, most, range_text(1, most)) : otherwise;
}

/// "0-2,5" -> 0, 1, 2, 5; must ascend.
std::vector<int> list_of(const GivenOptions& given, const std::string& name) {
  if (!given.has(name)) return {};
  const auto layer = [&](std::string_view digits, int least) {
    return given.number_in(name, digits, least, kMostLayers, range_text(least, kMostLayers));
  };
  std::vector<int> numbers;
  std::istringstream parts(given.text(name));
  for (std::string part; std::getline(parts, part, ',');) {
    const auto dash = part.find('-', 1);
    const int first = layer(std::string_view(part).substr(0, dash), 0);
    const int last = dash == std::string::npos ? first : layer(std::string_view(part).substr(dash + 1), first);
    for (int n = first; n <= last; ++n) numbers.push_back(n);
  }
  if (numbers.empty() || std::adjacent_find(numbers.begin(), numbers.end(), std::greater_equal<>()) != numbers.end())
    throw given.wrong(name, "layers in ascending order, such as 3-60 or 0,2,4");
  return numbers;
}

std::optional<Topology> topology_of(const GivenOptions& given) {
  if (!given.has("ranks")) {
    if (given.has("nodes")) throw given.wrong("nodes", "--ranks beside it");
    return std::nullopt;
  }
  const int ranks = number_of(given, "ranks", 1, 65535);
  const int nodes = number_of(given, "nodes", 1, ranks);
  Topology topology;
  for (int n = 0; n < nodes; ++n) topology.ranks_per_node.push_back(ranks / nodes + (n < ranks % nodes ? 1 : 0));
  return topology;
}

/// Empty where none was given.
std::string format_name(const GivenOptions& given, const std::string& option) {
  std::string name = given.text(option);
  const auto is_named = [&](const auto& format) { return format.name == name; };
  if (given.has(option) && std::ranges::none_of(trace_formats(), is_named) &&
      std::ranges::none_of(plan_formats(), is_named))
    throw given.wrong(option, "a format; see coterie convert --help");
  return name;
}

bool is_normalized(const GivenOptions& given) {
  const std::string router = given.text("router");
  if (router != "softmax" && router != "softmax-normalized")
    throw given.wrong("router",
                      "softmax or softmax-normalized: with a sigmoid, a bias or groups of experts (DeepSeek-V3 and its "
                      "like) the largest logits are not the experts that ran; record the choices themselves");
  return router == "softmax-normalized";
}

template <class Format>
void list_formats(std::ostream& out, std::span<const Format> formats) {
  for (const Format& f : formats) {
    const char* const able = f.read != nullptr && f.write != nullptr ? "read, write" : "read";
    out << "  " << f.name << std::string(24 - f.name.size(), ' ') << able
        << std::string(13 - std::string_view(able).size(), ' ') << f.summary << '\n';
  }
}

}  // namespace

std::optional<ConvertOptions> parse_convert_options(std::span<const char* const> arguments) {
  const GivenOptions given("convert", visible_options(), arguments, "input");
  if (given.has("help")) return std::nullopt;
  ConvertOptions o;
  for (const std::string& input : given.texts("input")) o.inputs.emplace_back(input);
  if (o.inputs.empty()) throw InputError("coterie convert: no input file; see coterie convert --help");
  o.output = given.required_path("output");
  o.from = format_name(given, "from");
  o.to = format_name(given, "to");
  o.format.model = given.text("model");
  o.format.experts = number_of(given, "experts", 0, 65535);
  o.format.top_k = number_of(given, "top-k", 0, 65535);
  o.format.layer_ids = list_of(given, "layer-ids");
  o.format.dense_layers = list_of(given, "dense-layers");
  o.format.hidden_layers = number_of(given, "num-hidden-layers", 0, kMostLayers);
  o.format.topology = topology_of(given);
  if (given.has("router")) o.format.normalized = is_normalized(given);
  o.format.fill = given.has("fill");
  if (given.has("gate-order")) {
    o.format.gate_order = given.one_of<GateOrder>(
        "gate-order", {{"descending", GateOrder::descending}, {"unordered", GateOrder::unordered}});
  }
  return o;
}

std::string convert_help() {
  std::ostringstream out;
  out << "usage: coterie convert INPUT... --output FILE [--from FORMAT] [--to FORMAT] [options]\n\n"
         "Traces (several inputs of one format become one trace):\n";
  list_formats(out, trace_formats());
  out << "Plans:\n";
  list_formats(out, plan_formats());
  out << '\n' << visible_options();
  return out.str();
}

}  // namespace coterie
