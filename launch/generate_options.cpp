#include "launch/generate_options.hpp"

#include "placement/input_error.hpp"

#include <boost/program_options.hpp>

#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

namespace coterie {
namespace {

namespace po = boost::program_options;

constexpr std::int64_t kMostInt = std::numeric_limits<std::int32_t>::max();

po::typed_value<std::string>* text(const char* shown) {
  return po::value<std::string>()->value_name(shown);
}

po::typed_value<std::string>* text(const char* shown, const std::string& otherwise) {
  return text(shown)->default_value(otherwise);
}

po::options_description all_options() {
  const GenerateOptions defaults;
  constexpr unsigned kWidth = 110, kTextWidth = 76;
  po::options_description files("Files", kWidth, kTextWidth), model("Model", kWidth, kTextWidth),
      coherence("Context coherence and uneven loads", kWidth, kTextWidth), job("Batch and job", kWidth, kTextWidth),
      all;
  files.add_options()("model", text("DIR"), "checkpoint folder (config.json, safetensors, tokenizer files)")(
      "input", text("FILE"), "requests, OpenAI batch lines: completions and chat completions")(
      "output", text("FILE"), "results; where it is there already, the job does what it lacks")(
      "plan", text("FILE"), "which expert lives where (coterie plan); without: dealt in order")(
      "trace-out", text("FILE"), "record the experts of every token (coterie.trace/1)")(
      "logits-out", text("FILE"), "record the logits of every prompt (safetensors)")(
      "metrics", text("FILE"), "what the job did and how long it took, as one JSON object");
  model.add_options()("dtype", text("TYPE", "f32"),
                      "f32: exact, in 2 bytes where bf16 holds it, else 4; bf16: rounded")(
      "experts-per-token", text("N"), "experts that each token takes, whatever the model's config says")(
      "device", text("KIND", "cpu"), "cpu, cuda (a GPU for each rank of a node), or auto")(
      "expert-kernels", text("KIND", "auto"), "auto, mma, wgmma, or cublas where faster (last bits then vary)")(
      "share-gpu", "ranks of a node may share its GPUs")(
      "cuda-graphs", text("on|off", "on"), "on: a GPU gets a decode step like one before at once (one rank)")(
      "threads", text("N", std::to_string(defaults.threads)), "threads of a rank on the CPU")(
      "seed", text("N", std::to_string(defaults.seed)), "random seed of requests that name none");
  coherence.add_options()("coherence", text("DOMAIN", "rank"),
                          "how far a token goes on from its experts: rank, node, world or auto")(
      "dense", text("FORM"), "dense work: follow the token, replicate on the domain, or auto")(
      "micro-batches", text("N"), "1, 2 (partial sums of one half ride with rows of the other) or auto")(
      "machine", text("FILE"), "machine file with the costs; without: measured at the start")(
      "dispatch", text("P", "least-loaded"), "least-loaded, llep, or plain: rows of overloaded ranks stay there")(
      "spill-cache", text("SIZE", "512MiB"), "memory for experts of other ranks that came to help; 0: none")(
      "llep-alpha", text("X", "1.0"), "llep: capacity of a rank over the mean")(
      "llep-min-rows", text("N", std::to_string(defaults.dispatch.llep_min_rows)), "llep: fewest rows to give away")(
      "llep-threshold", text("X", "1.3"), "llep: heaviest rank over the mean, below which nothing moves");
  job.add_options()("max-batch-tokens", text("N", std::to_string(defaults.max_batch_tokens)),
                    "tokens of a rank's step; longer prompts go through in chunks")(
      "max-batch-size", text("N", std::to_string(defaults.max_batch_size)), "sequences of a rank at once")(
      "kv-memory", text("SIZE", "auto"), "keys and values of a rank, such as 512MiB; what doesn't fit waits")(
      "transport", text("KIND", "auto"), "mpi, nccl, or auto: nccl where every rank has a GPU of its own")(
      "low-latency", text("WHEN", "auto"), "nccl: small messages by the GPUs alone: on, off, or auto: if faster")(
      "timeout", text("SECONDS", "300"), "longest wait for other ranks")(
      "ranks-per-node", text("N", "found"), "treat so many ranks as one node, whatever the hosts are")("help,h",
                                                                                                       "this text");
  all.add(files).add(model).add(coherence).add(job);
  return all;
}

InputError bad_option(const std::string& name, const std::string& found, const std::string& expected) {
  return bad_field("coterie generate", "--" + name, "'" + found + "'", expected);
}

/// The options as they were given; each value is checked as it is taken.
class Given {
 public:
  explicit Given(po::variables_map values) : values_(std::move(values)) {}

  [[nodiscard]] std::string text(const std::string& name) const {
    return values_.count(name) != 0 ? values_[name].as<std::string>() : "";
  }

  [[nodiscard]] bool has(const std::string& name) const { return values_.count(name) != 0; }

  [[nodiscard]] std::filesystem::path path(const std::string& name) const {
    if (values_.count(name) != 0 && text(name).empty()) throw bad_option(name, "", "a path");
    return text(name);
  }

  [[nodiscard]] std::filesystem::path required_path(const std::string& name) const {
    if (values_.count(name) == 0) {
      throw InputError("coterie generate: --" + name + " is missing; see coterie generate --help");
    }
    return path(name);
  }

  template <typename Number>
  [[nodiscard]] Number number(const std::string& name, Number least, Number most, const std::string& expected) const {
    const std::string given = text(name);
    Number value{};
    const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
    const bool whole = error == std::errc() && end == given.data() + given.size();
    if (!whole || !(value >= least && value <= most)) throw bad_option(name, given, expected);
    return value;
  }

  [[nodiscard]] std::int64_t count(const std::string& name) const {
    return number<std::int64_t>(name, 1, kMostInt, "a whole number from 1 to " + std::to_string(kMostInt));
  }

  /// Of at least `least` bytes; `otherwise`: what else may be said, for the message.
  [[nodiscard]] std::uint64_t bytes(const std::string& name, double least, const std::string& otherwise) const {
    const std::string given = text(name), expected = otherwise + "a size such as 512MiB, 2GiB or 1000000";
    double value = 0;
    const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
    const std::string unit(end, given.data() + given.size());
    constexpr std::pair<const char*, double> kUnits[] = {
        {"", 1},         {"B", 1},      {"K", 0x1p10},   {"KiB", 0x1p10}, {"M", 0x1p20}, {"MiB", 0x1p20}, {"G", 0x1p30},
        {"GiB", 0x1p30}, {"T", 0x1p40}, {"TiB", 0x1p40}, {"KB", 1e3},     {"MB", 1e6},   {"GB", 1e9},     {"TB", 1e12},
    };
    for (const auto& [name_of_unit, size] : kUnits) {
      const double total = value * size;
      if (error == std::errc() && unit == name_of_unit && total >= least && total < 0x1p63) {
        return static_cast<std::uint64_t>(total);
      }
    }
    throw bad_option(name, given, expected);
  }

 private:
  po::variables_map values_;
};

po::variables_map read(std::span<const char* const> arguments) {
  const std::vector<std::string> words(arguments.begin(), arguments.end());
  po::variables_map values;
  try {
    // No guessing: a job file should not change its meaning when an option is added.
    const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    const po::positional_options_description none;
    po::store(po::command_line_parser(words).options(all_options()).positional(none).style(style).run(), values);
  } catch (const po::error& e) {
    throw InputError("coterie generate: " + std::string(e.what()) + "; see coterie generate --help");
  }
  return values;
}

/// Writing one file must not destroy another, whatever names they go by.
void check_outputs(const GenerateOptions& o) {
  const std::pair<const char*, const std::filesystem::path*> files[] = {
      {"input", &o.input},    {"plan", &o.plan},           {"machine", &o.machine},
      {"output", &o.output},  {"trace-out", &o.trace_out}, {"logits-out", &o.logits_out},
      {"metrics", &o.metrics}};
  constexpr std::size_t kInputs = 3;
  std::error_code unknown;  // what can't be looked up is compared as it is written
  for (std::size_t i = kInputs; i < std::size(files); ++i) {
    const auto& [name, path] = files[i];
    for (std::size_t j = 0; j < i && !path->empty(); ++j) {
      const auto& [other_name, other] = files[j];
      if (path->lexically_normal() == other->lexically_normal() ||
          std::filesystem::equivalent(*path, *other, unknown)) {
        throw bad_option(name, path->string(), std::string("another file than --") + other_name);
      }
    }
  }
}

/// What isn't said is the simplest with a domain that is given, and chosen with --coherence auto.
void take_form(const Given& given, GenerateOptions& o) {
  const std::string coherence = given.text("coherence");
  const auto text_of = [&](const char* name, const char* simplest) {
    return given.has(name) ? given.text(name) : coherence == "auto" ? "auto" : simplest;
  };
  const std::string dense = text_of("dense", "follow"), parts = text_of("micro-batches", "1");
  if (coherence != "rank" && coherence != "node" && coherence != "world" && coherence != "auto") {
    throw bad_option("coherence", coherence, "rank, node, world or auto");
  }
  if (dense != "follow" && dense != "replicate" && dense != "auto") {
    throw bad_option("dense", dense, "follow, replicate or auto");
  }
  if (parts != "1" && parts != "2" && parts != "auto") throw bad_option("micro-batches", parts, "1, 2 or auto");
  if (coherence == "rank" && dense == "replicate") {
    throw bad_option("dense", dense, "follow with --coherence rank: there is no other rank to compute it on");
  }
  if (coherence == "rank" && dense != "follow") {
    o.replicate = false;
  } else if (dense == "auto") {
    o.replicate.reset();
  } else {
    o.replicate = dense == "replicate";
  }
  o.coherence = coherence == "rank" ? Coherence::rank : coherence == "node" ? Coherence::node : Coherence::world;
  if (coherence == "auto") o.coherence.reset();
  o.micro_batches = parts == "2" ? 2 : 1;
  if (parts == "auto") o.micro_batches.reset();
  o.machine = given.path("machine");
}

void take_dispatch(const Given& given, GenerateOptions& o) {
  const std::string policy = given.text("dispatch");
  if (policy != "plain" && policy != "llep" && policy != "least-loaded") {
    throw bad_option("dispatch", policy, "plain, llep or least-loaded");
  }
  o.dispatch.policy = policy == "plain"  ? DispatchPolicy::plain
                      : policy == "llep" ? DispatchPolicy::llep
                                         : DispatchPolicy::least_loaded;
  o.spill_cache = given.bytes("spill-cache", 0, "");
  o.dispatch.llep_alpha = given.number<double>("llep-alpha", 0, 1e6, "a number from 0 to 1000000");
  o.dispatch.llep_min_rows = given.count("llep-min-rows");
  o.dispatch.llep_threshold = given.number<double>("llep-threshold", 0, 1e6, "a number from 0 to 1000000");
}

}  // namespace

std::optional<GenerateOptions> parse_generate_options(std::span<const char* const> arguments) {
  const po::variables_map values = read(arguments);
  if (values.count("help") != 0) return std::nullopt;
  const Given given(values);

  GenerateOptions o;
  o.model = given.required_path("model");
  o.input = given.required_path("input");
  o.output = given.required_path("output");
  o.plan = given.path("plan");
  o.trace_out = given.path("trace-out");
  o.logits_out = given.path("logits-out");
  o.metrics = given.path("metrics");

  const std::string dtype = given.text("dtype");
  if (dtype != "f32" && dtype != "bf16") throw bad_option("dtype", dtype, "f32 or bf16");
  o.dtype = dtype == "f32" ? DType::f32 : DType::bf16;
  const std::map<std::string, DeviceKind> kinds{
      {"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}, {"auto", DeviceKind::any}};
  const auto kind = kinds.find(given.text("device"));
  if (kind == kinds.end()) throw bad_option("device", given.text("device"), "cpu, cuda or auto");
  o.device = kind->second;
  const std::map<std::string, ExpertKernels> kernels{{"auto", ExpertKernels::best},
                                                     {"mma", ExpertKernels::mma},
                                                     {"wgmma", ExpertKernels::wgmma},
                                                     {"cublas", ExpertKernels::cublas}};
  const auto expert_kernels = kernels.find(given.text("expert-kernels"));
  if (expert_kernels == kernels.end()) {
    throw bad_option("expert-kernels", given.text("expert-kernels"), "auto, mma, wgmma or cublas");
  }
  o.expert_kernels = expert_kernels->second;
  const std::map<std::string, Transport> transports{
      {"mpi", Transport::mpi}, {"nccl", Transport::nccl}, {"auto", Transport::any}};
  const auto transport = transports.find(given.text("transport"));
  if (transport == transports.end()) throw bad_option("transport", given.text("transport"), "mpi, nccl or auto");
  o.transport = transport->second;
  const std::map<std::string, std::optional<bool>> low_latency{{"on", true}, {"off", false}, {"auto", std::nullopt}};
  const auto when = low_latency.find(given.text("low-latency"));
  if (when == low_latency.end()) throw bad_option("low-latency", given.text("low-latency"), "on, off or auto");
  o.low_latency = when->second;
  o.share_gpu = values.count("share-gpu") != 0;
  const std::string graphs = given.text("cuda-graphs");
  if (graphs != "on" && graphs != "off") throw bad_option("cuda-graphs", graphs, "on or off");
  o.cuda_graphs = graphs == "on";
  if (!given.text("experts-per-token").empty()) {
    o.experts_per_token = static_cast<int>(given.count("experts-per-token"));
  }
  o.threads = static_cast<int>(given.number<std::int64_t>("threads", 1, 1024, "a whole number from 1 to 1024"));
  o.seed = given.number<std::uint64_t>("seed", 0, std::numeric_limits<std::uint64_t>::max(),
                                       "a whole number from 0, of 64 bits");
  take_form(given, o);
  take_dispatch(given, o);
  check_outputs(o);
  o.max_batch_tokens = given.count("max-batch-tokens");
  o.max_batch_size = given.count("max-batch-size");
  if (given.text("kv-memory") != "auto") o.kv_memory = given.bytes("kv-memory", 1, "auto, or ");
  o.timeout = std::chrono::duration<double>(
      given.number<double>("timeout", 1e-3, 1e7, "a number of seconds above 0 and at most 10000000"));
  if (given.text("ranks-per-node") != "found") o.ranks_per_node = static_cast<int>(given.count("ranks-per-node"));
  return o;
}

std::string generate_help() {
  std::ostringstream out;
  out << "usage: [mpirun -n P] coterie generate --model DIR --input FILE --output FILE [options]\n" << all_options();
  return out.str();
}

}  // namespace coterie
