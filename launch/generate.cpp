// `coterie generate`: a batch of requests through a model on the ranks that mpirun or srun started.
#include "launch/choose_device.hpp"
#include "launch/choose_transport.hpp"
#include "launch/command.hpp"
#include "launch/earlier_records.hpp"
#include "launch/generate_options.hpp"
#include "launch/job_form.hpp"
#include "launch/on_ranks.hpp"
#include "launch/outputs.hpp"
#include "launch/progress.hpp"
#include "launch/text_page.hpp"
#include "placement/files/digest.hpp"
#include "placement/files/replacing_file.hpp"
#include "runtime/checkpoint/check_weights.hpp"
#include "runtime/engine/agreement.hpp"
#include "runtime/engine/device_messages.hpp"
#include "runtime/engine/engine.hpp"
#include "runtime/engine/logits_recorder.hpp"
#include "runtime/engine/request_feed.hpp"
#include "runtime/engine/trace_recorder.hpp"
#include "runtime/families/family.hpp"
#include "runtime/families/routing_variants.hpp"
#include "runtime/requests/result_line.hpp"
#include "runtime/requests/sampler.hpp"
#include "runtime/text/utf8.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <iostream>
#include <memory>

namespace coterie {
namespace {

std::atomic<bool> stop_requested = false;

/// The first signal of a kind lets the step finish; the second ends the process as usual.
void stop_at_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

/// What a rank reads before anything big is loaded.
struct Inputs {
  std::string name;  ///< of the model's folder, as UTF-8
  ModelSpec spec;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Tokenizer> tokenizer;
  Plan plan;
  std::string digest;  ///< of the model's configuration and the layout of its weights
  std::string plan_digest;
  std::string machine_digest;
};

Inputs read_inputs(const GenerateOptions& options, const Communicator& comm) {
  Inputs in;
  in.name = made_valid((options.model / "").parent_path().filename().string());
  in.spec = read_model_spec(options.model);
  if (options.experts_per_token > 0) {
    set_experts_per_token(in.spec, options.experts_per_token, "coterie generate: --experts-per-token");
  }
  in.checkpoint = std::make_unique<Checkpoint>(options.model);
  check_weights(in.spec, *in.checkpoint);
  in.digest = sha256_of_file(options.model / "config.json") + " " + in.checkpoint->digest();
  in.tokenizer = load_tokenizer(options.model);
  const auto layers = in.spec.moe_layer_ids();
  if (options.plan.empty()) {
    in.plan = contiguous_plan(in.spec.family, layers, in.spec.experts(), in.spec.top_k(), topology_of(comm));
    in.plan_digest = "contiguous";
  } else {
    in.plan = read_plan(options.plan);
    check_plan(in.plan, options.plan.string(), layers, in.spec.experts(), comm.ranks());
    in.plan_digest = sha256_of_file(options.plan);
  }
  if (!options.machine.empty()) in.machine_digest = sha256_of_file(options.machine);
  return in;
}

/// A plan fits every model of its shape, but is good for the one that its traces are of.
std::string plan_note(const Inputs& in, const GenerateOptions& options) {
  if (options.plan.empty() || in.plan.model == in.name) return "";
  return "coterie: " + options.plan.string() + ": was made for " + printable(in.plan.model) + ", and places " +
         in.name + '\n';
}

/// Of the rank that reads requests and writes; the results are looked at once more when they are opened.
void check_files(const GenerateOptions& options) {
  const NamedFile inputs[] = {{"--input", options.input}, {"--plan", options.plan}, {"--machine", options.machine}};
  const NamedFile outputs[] = {{"--output", options.output},
                               {"--trace-out", options.trace_out},
                               {"--logits-out", options.logits_out},
                               {"--metrics", options.metrics}};
  expect_apart("coterie generate", outputs, inputs);
  for (const NamedFile& record : std::span(outputs).subspan(1))
    if (!record.path.empty()) demand_writable(record.path);
}

/// What rank 0 alone has: the files that requests come from and results go to.
struct Files {
  ResultsFile results;
  EarlierRecords earlier;
  RequestFeed feed;
  Progress progress{std::cerr, isatty(STDERR_FILENO) != 0};

  Files(const GenerateOptions& options, const Trace& header, const RequestRules& rules, std::int64_t kv_tokens)
      : results(options.output),
        earlier({options.trace_out, options.logits_out, options.input}, header, rules.vocabulary,
                results.completions_found(), std::cerr),
        feed(options.input, rules, kv_tokens, results) {}

  [[nodiscard]] Standing standing(std::int64_t answered, std::int64_t rows) const {
    const FeedCounts& counts = feed.counts();
    const std::int64_t requests = feed.lines() - counts.answered_before;
    const std::int64_t failed = counts.failed - static_cast<std::int64_t>(results.errors_found());
    const std::int64_t work = counts.given == 0 ? 0 : counts.expected_work * requests / counts.given;
    return {answered + failed, requests, rows, std::max<std::int64_t>(0, work - rows)};
  }
};

/// Answers are kept whose they are: only who changed the model knows whether they should be.
std::string other_models_note(const ResultsFile& results, const Inputs& in, const GenerateOptions& options) {
  std::string others;
  for (const std::string& model : results.models_found())
    if (model != in.name) others += (others.empty() ? "" : ", ") + printable(model);
  if (others.empty()) return "";
  return "coterie: " + options.output.string() + ": keeps answers of " + others + "; new ones are of " + in.name + '\n';
}

void observe(Worker& worker, const GenerateOptions& options, TraceRecorder& trace, LogitsRecorder& logits) {
  if (!options.trace_out.empty()) {
    worker.observe_routing([&](const Batch& batch, std::span<const std::int32_t> rows, int layer,
                               const Routing& routing) { trace.record(batch, rows, layer, routing); });
  }
  if (!options.logits_out.empty()) {
    worker.scheduler().observe_prompt_logits(
        [&](const Request& request, std::span<const float> row) { logits.record(request, row); });
  }
}

Trace trace_header(const Inputs& in) {
  Trace header;
  header.model = in.name;
  header.num_experts = in.spec.experts();
  header.top_k = in.spec.top_k();
  header.layer_ids = in.spec.moe_layer_ids();
  return header;
}

void write_metrics(nlohmann::json metrics, const Inputs& in, const GenerateOptions& options, const JobForm& form,
                   const Device& device, const Communicator& comm, const FeedCounts& counts, std::int64_t answered,
                   double load_seconds, double run_seconds) {
  const auto nodes = topology_of(comm).ranks_per_node;
  metrics["model"] = {
      {"path", options.model.string()}, {"family", in.spec.family}, {"parameters", in.spec.parameters()}};
  metrics["job"].update({{"ranks_per_node", nodes},
                         {"weights", options.dtype == DType::f32 ? "f32" : "bf16"},
                         {"device", device.name()},
                         {"threads", options.threads},
                         {"max_batch_tokens", options.max_batch_tokens},
                         {"max_batch_size", options.max_batch_size}});
  metrics["job"].update(form_json(form));
  metrics["requests"] = {
      {"answered", answered}, {"failed", counts.failed}, {"answered_before", counts.answered_before}};
  metrics["load_seconds"] = load_seconds;
  metrics["run_seconds"] = run_seconds;
  replace_file(options.metrics, metrics.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + '\n');
}

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

int generate(const GenerateOptions& options, const std::string& command_line, MpiSession& session) {
  const Stopwatch loading;
  const auto mpi = make_mpi_communicator(session, {options.timeout, options.ranks_per_node});
  const std::optional<int> gpu = choose_gpu(options, *mpi);
  const ChosenTransport transport = choose_transport(options, gpu, session, *mpi);
  CountingCommunicator comm(transport.nccl ? *transport.nccl : *mpi);
  const bool first = comm.rank() == 0;
  Inputs in;
  std::unique_ptr<Device> device;
  std::unique_ptr<ChatRenderer> chat;
  std::unique_ptr<Files> files;

  all_or_none(comm, [&] {
    if (first) check_files(options);
    in = read_inputs(options, comm);
    device = make_device(options, gpu);
  });
  const DeviceMessages messages(*device, comm);
  expect_same(comm, {{"model", in.digest},
                     {"plan", in.plan_digest},
                     {"machine file", in.machine_digest},
                     {"command line", command_line}});
  RequestRules rules{in.spec.vocabulary, in.spec.max_positions, in.tokenizer.get(), options.seed};
  all_or_none(comm, [&] {
    if (!first || !in.tokenizer) return;
    chat = std::make_unique<ChatRenderer>(options.model, *in.tokenizer);
    rules.render_chat = [&](std::string_view line) { return chat->render(line); };
  });
  const JobForm form = job_form(options, {in.spec, *in.checkpoint, in.plan, topology_of(comm), &rules}, *device, comm);
  if (first) std::cerr << transport.note << form.notes << plan_note(in, options);
  all_or_none(comm, [&] {
    if (!first) return;
    rules.kv_tokens = form.kv_blocks * KvPool::kBlockTokens;
    files = std::make_unique<Files>(options, trace_header(in), rules, rules.kv_tokens);
    std::cerr << other_models_note(files->results, in, options);
  });

  const WorkerOptions worker_options{
      {options.max_batch_tokens, static_cast<int>(options.max_batch_size), form.replicate},
      form.kv_blocks,
      options.dtype,
      form.coherence,
      form.micro_batches,
      form.spill};
  if (form.gpu_bytes > 0) {
    device->reserve(static_cast<std::size_t>(form.gpu_bytes), static_cast<std::size_t>(form.pinned_bytes));
  }
  Worker worker(in.spec, *in.checkpoint, in.plan, in.tokenizer.get(), *device, comm, worker_options);
  in.checkpoint.reset();
  TraceRecorder trace(comm.rank(), in.spec.top_k());
  LogitsRecorder logits;
  observe(worker, options, trace, logits);
  const double load_seconds = loading.seconds();

  Standing standing;
  EngineHooks hooks;
  hooks.render = [&](const Completion& c) { return completion_line(c, in.tokenizer.get(), in.name); };
  hooks.stop = &stop_requested;
  if (first) {
    hooks.next_request = [&] { return files->feed.next(); };
    hooks.write = [&](const std::string& line) { files->results.append(line); };
    hooks.progress = [&](std::int64_t answered, std::int64_t rows) {
      standing = files->standing(answered, rows);
      files->progress.update(standing);
    };
  }
  const Stopwatch running;
  Engine engine(worker, comm, static_cast<int>(options.max_batch_size), std::move(hooks));
  Stop stop = Stop::none;
  try {
    stop = engine.run();
  } catch (const BrokenLogits&) {
    expect_finite(in.spec, Checkpoint(options.model));  // where the files are why, they are what is to be named
    throw;
  }
  const double run_seconds = running.seconds();

  all_or_none(comm, [&] {
    if (!first) return;
    if (engine.output_error()) std::rethrow_exception(engine.output_error());
    files->results.sync();
    files->progress.finish(files->standing(engine.answered(), engine.rows()));
  });
  if (!options.trace_out.empty()) {
    Trace all = trace.gather(comm, trace_header(in));
    if (first) all.requests = requests_of(options.input);
    if (first) all = files->earlier.with(std::move(all));
    if (first && all.tokens() > 0) write_trace(options.trace_out, all);
  }
  if (!options.logits_out.empty()) {
    auto all = logits.gather(comm);
    if (first) write_logits(options.logits_out, files->earlier.with(std::move(all)), in.spec.vocabulary);
  }
  auto metrics = gather_metrics(comm, comm, worker.metrics());
  metrics["job"]["transport"] = transport.nccl ? "nccl" : "mpi";
  metrics["job"]["low_latency"] = transport.low_latency;
  if (first && !options.metrics.empty()) {
    write_metrics(metrics, in, options, form, *device, comm, files->feed.counts(), engine.answered(), load_seconds,
                  run_seconds);
  }
  if (stop == Stop::by_signal) {
    if (first) std::cerr << "coterie: stopped by a signal; the same command goes on with what is missing\n";
    return kStopped;
  }
  return smallest(comm, first && files->feed.counts().failed > 0 ? -1 : 0) < 0 ? kSomeFailed : kDone;
}

int run(std::span<const char* const> arguments) {
  std::optional<GenerateOptions> options;
  std::string wrong;
  try {
    options = parse_generate_options(arguments);
  } catch (const InputError& e) {
    wrong = e.what();
  }
  return on_ranks(options.value_or(GenerateOptions{}).timeout, [&](MpiSession& session) {
    if (!wrong.empty()) throw AgreedError(wrong);  // every rank has the same command line
    if (!options) {
      if (session.rank() == 0) std::cout << generate_help();
      return static_cast<int>(kDone);
    }
    std::string command_line;
    for (const char* argument : arguments) command_line.append(argument).append(" ");
    stop_at_signals();
    return generate(*options, command_line, session);
  });
}

}  // namespace

const Command kGenerate{"generate", "answer a file of requests with a model (under mpirun or srun)", run};

}  // namespace coterie
