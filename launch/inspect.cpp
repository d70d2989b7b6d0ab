// `coterie inspect`: facts of a trace, a plan, a model folder or a machine file, found out by what is in it.
#include "launch/given_options.hpp"
#include "launch/inspection.hpp"
#include "placement/files/json_view.hpp"
#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"
#include "placement/trace/load_trace.hpp"

#include <boost/program_options.hpp>

#include <array>
#include <fstream>
#include <iostream>
#include <sstream>

namespace coterie {
namespace {

namespace po = boost::program_options;

constexpr int kMostRanks = 65535;

po::options_description visible_options() {
  po::options_description all("Options", 80, 46);
  all.add_options()("trace", po::value<std::vector<std::string>>()->value_name("FILE"),
                    "plan: count its figures on this trace; may be given several times")(
      "check", "plan: count again, from all its traces, what its certificate says; exit code 1 when it does not hold")(
      "certificate", po::value<std::string>()->value_name("FILE"),
      "plan: what coterie plan --certificate wrote, to check its bound by")(
      "objective", po::value<std::string>()->value_name("NAME"), "plan: affinity, traffic or load instead of its own")(
      "domain", po::value<std::string>()->value_name("NAME"), "plan: rank, node or world instead of its own")(
      "ranks", po::value<std::string>()->value_name("N"), "model: on so many ranks (without: 1, 2, 4, ...)")(
      "json", "print one JSON object instead of text")("help,h", "this text");
  return all;
}

std::string help() {
  std::ostringstream out;
  out << "usage: coterie inspect FILE|FOLDER [options]\n\n"
         "Facts of a trace (layers, affinity, load, locality), a plan (and, with --trace,\n"
         "what it keeps and sends), a model folder (sizes, memory, price of coherence) or\n"
         "a machine file. What it is, is found out by what is in it.\n\n"
      << visible_options();
  return out.str();
}

/// Nothing: help was asked for.
std::optional<InspectOptions> parse(std::span<const char* const> arguments) {
  const GivenOptions given("inspect", visible_options(), arguments, "subject");
  if (given.has("help")) return std::nullopt;
  const auto subjects = given.texts("subject");
  if (subjects.size() != 1) {
    throw bad_field("coterie inspect", "arguments", std::to_string(subjects.size()) + " files or folders",
                    "one; see coterie inspect --help");
  }
  InspectOptions options;
  options.subject = subjects.front();
  options.check = given.has("check");
  options.json = given.has("json");
  for (const auto& path : given.texts("trace")) {
    if (path.empty()) throw given.wrong("trace", path, "a path");
    options.traces.emplace_back(path);
  }
  if (given.has("certificate")) {
    options.certificate = given.path("certificate");
    if (!options.check) throw given.wrong("certificate", "--check beside it");
  }
  if (given.has("objective")) options.objective = objective_of(given.text("objective"), given.label("objective"));
  if (given.has("domain")) options.domain = domain_of(given.text("domain"), given.label("domain"));
  if (given.has("ranks")) options.ranks = given.number("ranks", 1, kMostRanks, "a whole number from 1 to 65535");
  return options;
}

enum class Kind { model, trace, load_trace, plan, machine };

Kind kind_of_json(const std::filesystem::path& path) {
  const nlohmann::json json = read_json(path);
  const std::string where = path.string();
  const JsonView file(json, where);
  const std::string expected = "coterie.plan/1 or coterie.machine/1 (of a model, name the folder)";
  if (!json.is_object() || !file.has("format")) throw bad_field(where, "format", "none", expected);
  const std::string format = file["format"].text();
  if (format.starts_with("coterie.plan/")) return Kind::plan;
  if (format.starts_with("coterie.machine/")) return Kind::machine;
  throw bad_field(where, "format", format, expected);
}

/// By content: a folder is a model, JSON a plan or a machine, safetensors a trace.
Kind kind_of(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return Kind::model;
  std::ifstream in(path, std::ios::binary);
  std::array<char, 16> start{};
  in.read(start.data(), start.size());
  if (!in && in.gcount() == 0) {
    if (std::filesystem::exists(path)) throw InputError(path.string() + ": cannot be read, or is empty");
    throw InputError(path.string() + ": no such file or folder");
  }
  const std::string head(start.data(), static_cast<std::size_t>(in.gcount()));
  const std::size_t first = head.find_first_not_of(" \t\r\n");
  const bool safetensors = head.size() > 8 && head[8] == '{';
  if (first != std::string::npos && head[first] == '{' && !safetensors) return kind_of_json(path);
  if (!safetensors) {
    throw bad_field(path.string(), "content", "neither JSON nor safetensors",
                    "a trace, a plan, a machine file or a model folder");
  }
  return is_load_trace(path) ? Kind::load_trace : Kind::trace;
}

Inspection inspect(const InspectOptions& options) {
  const Kind kind = kind_of(options.subject);
  const auto only_for = [&](const char* option, bool given, Kind right, const char* what) {
    if (given && kind != right) {
      throw InputError("coterie inspect: " + std::string(option) + " is for " + what + ", and " +
                       options.subject.string() + " is none");
    }
  };
  only_for("--trace", !options.traces.empty(), Kind::plan, "plans");
  only_for("--check", options.check, Kind::plan, "plans");
  only_for("--objective", options.objective.has_value(), Kind::plan, "plans");
  only_for("--domain", options.domain.has_value(), Kind::plan, "plans");
  only_for("--ranks", options.ranks > 0, Kind::model, "model folders");
  switch (kind) {
    case Kind::model:
      return inspect_model(options);
    case Kind::trace:
      return inspect_trace(options.subject);
    case Kind::load_trace:
      return inspect_load_trace(options.subject);
    case Kind::plan:
      return inspect_plan(options);
    case Kind::machine:
      return inspect_machine(options.subject);
  }
  return {};
}

int run(std::span<const char* const> arguments) {
  const auto options = parse(arguments);
  if (!options) {
    std::cout << help();
    return kDone;
  }
  const Inspection found = inspect(*options);
  std::cout << (options->json ? found.json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                              : found.text);
  return found.exit_code;
}

}  // namespace

std::string ranges_text(const std::vector<int>& ids) {
  std::string text;
  for (std::size_t first = 0; first < ids.size();) {
    std::size_t last = first;
    while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
    text +=
        (first > 0 ? ", " : "") + std::to_string(ids[first]) + (last > first ? "-" + std::to_string(ids[last]) : "");
    first = last + 1;
  }
  return text;
}

const Command kInspect{"inspect", "facts of a trace, a plan, a model folder or a machine file", run};

}  // namespace coterie
