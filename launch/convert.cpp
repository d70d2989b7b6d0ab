// coterie convert: traces and plans from and to the formats of other systems.
#include "launch/command.hpp"
#include "launch/convert_options.hpp"
#include "launch/outputs.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <iostream>

namespace coterie {
namespace {

/// What a format's name stands for: one of the two is set.
struct Format {
  std::string_view name;
  const TraceFormat* trace = nullptr;
  const PlanFormat* plan = nullptr;
};

std::vector<Format> all_formats() {
  std::vector<Format> all;
  for (const TraceFormat& f : trace_formats()) all.push_back({f.name, &f, nullptr});
  for (const PlanFormat& f : plan_formats()) all.push_back({f.name, nullptr, &f});
  return all;
}

Format format_named(const std::string& name) {
  const auto all = all_formats();
  return *std::ranges::find(all, name, &Format::name);
}

/// The format that the content shows.
Format format_of(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) throw InputError(path.string() + ": found no such file or folder");
  std::vector<Format> fitting;
  for (const Format& f : all_formats()) {
    const auto recognises = f.trace != nullptr ? f.trace->recognises : f.plan->recognises;
    if (recognises != nullptr && recognises(path)) fitting.push_back(f);
  }
  if (fitting.size() == 1) return fitting.front();
  std::string names;
  for (const Format& f : fitting) names += (names.empty() ? "" : " or ") + std::string(f.name);
  throw InputError(path.string() + ": the content doesn't show what it is" + (names.empty() ? "" : " (" + names + ")") +
                   ", expected --from FORMAT; see coterie convert --help");
}

/// Where no target is named, the project's own format for what was read.
Format target_of(const ConvertOptions& options, const Format& from, const Format& own) {
  if (!options.to.empty()) return format_named(options.to);
  if (from.name == own.name)
    throw InputError("coterie convert: " + options.inputs.front().string() + " is " + std::string(own.name) +
                     " already, expected --to FORMAT");
  return own;
}

InputError wrong_kind(const Format& from, const Format& to) {
  return bad_field("coterie convert", "--to", "'" + std::string(to.name) + "'",
                   std::string("a format of ") + (from.trace != nullptr ? "traces" : "plans") +
                       " that can be written, as " + std::string(from.name) + " is read");
}

void convert_trace(const ConvertOptions& options, const Format& from) {
  const AnyTrace trace = from.trace->read(options.inputs, options.format);
  const auto* const choices = std::get_if<Trace>(&trace);
  const TraceFormat& own = choices != nullptr ? kCoterieTrace : kCoterieLoad;
  const Format to = target_of(options, from, {own.name, &own, nullptr});
  if (to.trace == nullptr || to.trace->write == nullptr) throw wrong_kind(from, to);
  to.trace->write(options.output, trace, options.format);
  if (choices != nullptr) {
    std::cerr << options.output.string() << ": " << choices->tokens() << " tokens, " << choices->layers() << " layers, "
              << choices->top_k << " of " << choices->num_experts << " experts\n";
  } else {
    const auto& load = std::get<LoadTrace>(trace);
    std::cerr << options.output.string() << ": " << load.records() << " records of counts, " << load.layers()
              << " layers, " << load.top_k << " of " << load.num_experts << " experts\n";
  }
}

void convert_plan(const ConvertOptions& options, const Format& from) {
  if (options.inputs.size() > 1)
    throw InputError(options.inputs[1].string() + ": found a second input, expected one plan");
  const Plan plan = from.plan->read(options.inputs.front(), options.format);
  const Format to = target_of(options, from, {kCoteriePlan.name, nullptr, &kCoteriePlan});
  if (to.plan == nullptr) throw wrong_kind(from, to);
  to.plan->write(options.output, plan, options.format);
  std::cerr << options.output.string() << ": " << plan.layers() << " layers, " << plan.experts << " experts on "
            << plan.ranks() << " ranks, " << plan.slots_per_rank << " slots each\n";
}

int run(std::span<const char* const> arguments) {
  auto options = parse_convert_options(arguments);
  if (!options) {
    std::cout << convert_help();
    return kDone;
  }
  options->format.note = [](const std::string& text) { std::cerr << text << '\n'; };
  std::vector<NamedFile> inputs;
  for (const auto& input : options->inputs) inputs.push_back({"the input " + input.string(), input});
  const NamedFile output[] = {{"--output", options->output}};
  check_outputs("coterie convert", output, inputs);
  const Format from = options->from.empty() ? format_of(options->inputs.front()) : format_named(options->from);
  if (from.trace != nullptr)
    convert_trace(*options, from);
  else
    convert_plan(*options, from);
  return kDone;
}

}  // namespace

const Command kConvert{"convert", "traces and plans from and to the formats of other systems", run};

}  // namespace coterie
