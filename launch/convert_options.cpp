#include "launch/convert_options.hpp"

#include "placement/input_error.hpp"

#include <boost/program_options.hpp>

#include <algorithm>
#include <charconv>
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
      "fill", po::bool_switch(), "put replicas into empty slots where the target has none")("help,h", "this text");
  return all;
}

InputError bad_option(const std::string& name, const std::string& found, const std::string& expected) {
  return bad_field("coterie convert", "--" + name, "'" + found + "'", expected);
}

int number_of(const std::string& name, std::string_view digits, int least, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value < least || value > most)
    throw bad_option(name, std::string(digits),
                     "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  return value;
}

/// "0-2,5" -> 0, 1, 2, 5; must ascend.
std::vector<int> list_of(const std::string& name, const std::string& given) {
  std::vector<int> numbers;
  std::istringstream parts(given);
  for (std::string part; std::getline(parts, part, ',');) {
    const auto dash = part.find('-');
    const int first = number_of(name, std::string_view(part).substr(0, dash), 0, kMostLayers);
    const int last = dash == std::string::npos
                         ? first
                         : number_of(name, std::string_view(part).substr(dash + 1), first, kMostLayers);
    for (int n = first; n <= last; ++n) numbers.push_back(n);
  }
  if (numbers.empty() || std::adjacent_find(numbers.begin(), numbers.end(), std::greater_equal<>()) != numbers.end())
    throw bad_option(name, given, "layers in ascending order, such as 3-60 or 0,2,4");
  return numbers;
}

class Given {
 public:
  explicit Given(std::span<const char* const> arguments) {
    po::options_description all = visible_options();
    all.add_options()("input", po::value<std::vector<std::string>>());
    po::positional_options_description inputs;
    inputs.add("input", -1);
    const std::vector<std::string> words(arguments.begin(), arguments.end());
    try {
      const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
      po::store(po::command_line_parser(words).options(all).positional(inputs).style(style).run(), values_);
    } catch (const po::error& e) {
      throw InputError("coterie convert: " + std::string(e.what()) + "; see coterie convert --help");
    }
  }

  [[nodiscard]] bool has(const std::string& name) const { return values_.count(name) != 0; }
  [[nodiscard]] bool is_set(const std::string& name) const { return values_[name].as<bool>(); }
  [[nodiscard]] std::string text(const std::string& name) const {
    return has(name) ? values_[name].as<std::string>() : "";
  }
  [[nodiscard]] int number(const std::string& name, int otherwise, int most) const {
    return has(name) ? number_of(name, text(name), 1, most) : otherwise;
  }
  [[nodiscard]] std::vector<int> list(const std::string& name) const {
    return has(name) ? list_of(name, text(name)) : std::vector<int>{};
  }
  [[nodiscard]] std::vector<std::filesystem::path> inputs() const {
    if (!has("input")) throw InputError("coterie convert: no input file; see coterie convert --help");
    const auto& names = values_["input"].as<std::vector<std::string>>();
    return {names.begin(), names.end()};
  }

 private:
  po::variables_map values_;
};

std::optional<Topology> topology_of(const Given& given) {
  if (!given.has("ranks")) {
    if (given.has("nodes")) throw bad_option("nodes", given.text("nodes"), "--ranks beside it");
    return std::nullopt;
  }
  const int ranks = given.number("ranks", 1, 65535);
  const int nodes = given.number("nodes", 1, ranks);
  Topology topology;
  for (int n = 0; n < nodes; ++n) topology.ranks_per_node.push_back(ranks / nodes + (n < ranks % nodes ? 1 : 0));
  return topology;
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
  const Given given(arguments);
  if (given.has("help")) return std::nullopt;
  ConvertOptions o;
  o.inputs = given.inputs();
  if (given.text("output").empty())
    throw InputError("coterie convert: --output is missing; see coterie convert --help");
  o.output = given.text("output");
  o.from = given.text("from");
  o.to = given.text("to");
  o.format.model = given.text("model");
  o.format.experts = given.number("experts", 0, 65535);
  o.format.top_k = given.number("top-k", 0, 65535);
  o.format.layer_ids = given.list("layer-ids");
  o.format.dense_layers = given.list("dense-layers");
  o.format.hidden_layers = given.number("num-hidden-layers", 0, kMostLayers);
  o.format.topology = topology_of(given);
  o.format.router = given.text("router");
  o.format.fill = given.is_set("fill");
  if (const std::string order = given.text("gate-order"); !order.empty()) {
    if (order != "descending" && order != "unordered") throw bad_option("gate-order", order, "descending or unordered");
    o.format.gate_order = order == "descending" ? GateOrder::descending : GateOrder::unordered;
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
