#include "launch/generate_options.hpp"

#include "launch/given_options.hpp"
#include "placement/input_error.hpp"

#include <boost/program_options.hpp>

#include <limits>
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
      "output", text("FILE"), "results; if the file is there already, only what it lacks is done")(
      "plan", text("FILE"), "which expert lives where (coterie plan); without: dealt in order")(
      "trace-out", text("FILE"), "record the experts of every token (coterie.trace/1)")(
      "logits-out", text("FILE"), "record the logits of every prompt (safetensors)")(
      "metrics", text("FILE"), "what the job did and how long it took, as one JSON object");
  model.add_options()("dtype", text("TYPE", "f32"),
                      "f32: exact, in 2 bytes where bf16 holds it, else 4; bf16: rounded")(
      "experts-per-token", text("N"), "experts that each token takes, whatever the model's config says")(
      "device", text("KIND", "cpu"), "cpu, cuda (a GPU for each rank of a node), or auto")(
      "expert-kernels", text("KIND", "auto"), "on a GPU: auto, mma, wgmma, cublas if faster (last bits then vary)")(
      "share-gpu", "ranks of a node may share its GPUs")(
      "cuda-graphs", text("on|off", "on"), "on a GPU: whatever in a decode step is like one before as graphs")(
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

/// From 1.
std::int64_t count(const GivenOptions& given, const std::string& name) {
  return given.number<std::int64_t>(name, 1, kMostInt, "a whole number from 1 to " + std::to_string(kMostInt));
}

/// What isn't said is the simplest with a domain that is given, and chosen with --coherence auto.
void take_form(const GivenOptions& given, GenerateOptions& o) {
  o.coherence = given.one_of<std::optional<Coherence>>(
      "coherence",
      {{"rank", Coherence::rank}, {"node", Coherence::node}, {"world", Coherence::world}, {"auto", std::nullopt}});
  if (o.coherence) {
    o.replicate = false;
    o.micro_batches = 1;
  } else {
    o.replicate.reset();
    o.micro_batches.reset();
  }
  if (given.has("dense")) {
    o.replicate =
        given.one_of<std::optional<bool>>("dense", {{"follow", false}, {"replicate", true}, {"auto", std::nullopt}});
  }
  if (o.coherence == Coherence::rank) {
    if (o.replicate == true) {
      throw given.wrong("dense", "follow with --coherence rank: there is no other rank to compute it on");
    }
    o.replicate = false;
  }
  if (given.has("micro-batches")) {
    o.micro_batches = given.one_of<std::optional<int>>("micro-batches", {{"1", 1}, {"2", 2}, {"auto", std::nullopt}});
  }
  o.machine = given.path("machine");
}

void take_dispatch(const GivenOptions& given, GenerateOptions& o) {
  o.dispatch.policy = given.one_of<DispatchPolicy>("dispatch", {{"plain", DispatchPolicy::plain},
                                                                {"llep", DispatchPolicy::llep},
                                                                {"least-loaded", DispatchPolicy::least_loaded}});
  o.spill_cache = given.bytes("spill-cache", 0);
  o.dispatch.llep_alpha = given.number<double>("llep-alpha", 0, 1e6, "a number from 0 to 1000000");
  o.dispatch.llep_min_rows = count(given, "llep-min-rows");
  o.dispatch.llep_threshold = given.number<double>("llep-threshold", 0, 1e6, "a number from 0 to 1000000");
}

/// What concerns GPUs alone can't be asked of the CPU.
void take_device(const GivenOptions& given, GenerateOptions& o) {
  o.device = given.one_of<DeviceKind>(
      "device", {{"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}, {"auto", DeviceKind::any}});
  for (const char* name : {"expert-kernels", "share-gpu", "cuda-graphs", "low-latency"}) {
    if (o.device == DeviceKind::cpu && given.has(name)) {
      throw InputError(given.label(name) + ": found --device cpu, expected --device cuda or auto beside it");
    }
  }
  o.expert_kernels = given.one_of<ExpertKernels>("expert-kernels", {{"auto", ExpertKernels::best},
                                                                    {"mma", ExpertKernels::mma},
                                                                    {"wgmma", ExpertKernels::wgmma},
                                                                    {"cublas", ExpertKernels::cublas}});
  o.share_gpu = given.has("share-gpu");
  o.cuda_graphs = given.one_of<bool>("cuda-graphs", {{"on", true}, {"off", false}});
  o.transport = given.one_of<Transport>("transport",
                                        {{"mpi", Transport::mpi}, {"nccl", Transport::nccl}, {"auto", Transport::any}});
  o.low_latency =
      given.one_of<std::optional<bool>>("low-latency", {{"on", true}, {"off", false}, {"auto", std::nullopt}});
}

}  // namespace

std::optional<GenerateOptions> parse_generate_options(std::span<const char* const> arguments) {
  const GivenOptions given("generate", all_options(), arguments);
  if (given.has("help")) return std::nullopt;

  GenerateOptions o;
  o.model = given.required_path("model");
  o.input = given.required_path("input");
  o.output = given.required_path("output");
  o.plan = given.path("plan");
  o.trace_out = given.path("trace-out");
  o.logits_out = given.path("logits-out");
  o.metrics = given.path("metrics");

  o.dtype = given.one_of<DType>("dtype", {{"f32", DType::f32}, {"bf16", DType::bf16}});
  if (given.has("experts-per-token")) o.experts_per_token = static_cast<int>(count(given, "experts-per-token"));
  take_device(given, o);
  o.threads = static_cast<int>(given.number<std::int64_t>("threads", 1, 1024, "a whole number from 1 to 1024"));
  o.seed = given.number<std::uint64_t>("seed", 0, std::numeric_limits<std::uint64_t>::max(),
                                       "a whole number from 0, of 64 bits");
  take_form(given, o);
  take_dispatch(given, o);
  o.max_batch_tokens = count(given, "max-batch-tokens");
  o.max_batch_size = count(given, "max-batch-size");
  if (given.text("kv-memory") != "auto") o.kv_memory = given.bytes("kv-memory", 1, "auto, or ");
  o.timeout = std::chrono::duration<double>(
      given.number<double>("timeout", 1e-3, 1e7, "a number of seconds above 0 and at most 10000000"));
  if (given.text("ranks-per-node") != "found") o.ranks_per_node = static_cast<int>(count(given, "ranks-per-node"));
  return o;
}

std::string generate_help() {
  std::ostringstream out;
  out << "usage: [mpirun -n P] coterie generate --model DIR --input FILE --output FILE [options]\n" << all_options();
  return out.str();
}

}  // namespace coterie
