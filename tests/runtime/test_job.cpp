#include "tests/runtime/test_job.hpp"

#include "placement/solvers/solver.hpp"
#include "runtime/engine/device_messages.hpp"
#include "runtime/engine/logits_recorder.hpp"
#include "runtime/engine/trace_recorder.hpp"
#include "runtime/families/family.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

namespace coterie {
namespace {

template <class Stored, class T>
std::vector<T> values(const SafetensorsFile& file, const std::string& name) {
  const TensorView& tensor = file.at(name);
  std::vector<T> out;
  for (std::size_t i = 0; i < tensor.bytes.size(); i += sizeof(Stored)) {
    Stored value;
    std::memcpy(&value, &tensor.bytes[i], sizeof value);
    out.push_back(static_cast<T>(value));
  }
  return out;
}

/// Fills it with NaN.
void poison(const KvPool& kv, Device& device) {
  const DType type = device.activation_type();
  const auto count = kv.bytes() / static_cast<std::int64_t>(size_of(type));
  const std::vector<float> nan(static_cast<std::size_t>(count), std::numeric_limits<float>::quiet_NaN());
  device.upload(nan, {kv.layer(0).k, type, 1, count, count});
}

}  // namespace

Reference read_reference(const std::filesystem::path& model) {
  const SafetensorsFile file(model / "reference.safetensors");
  Reference reference;
  for (int i = 0; file.contains("prompt_" + std::to_string(i)); ++i) {
    const std::string n = std::to_string(i);
    reference.prompts.push_back(
        {values<std::int64_t, std::int32_t>(file, "prompt_" + n), values<float, float>(file, "logits_" + n),
         values<std::int32_t, std::uint16_t>(file, "experts_" + n), values<float, float>(file, "gates_" + n),
         values<std::int64_t, std::int32_t>(file, "greedy_" + n)});
  }
  return reference;
}

Request greedy_request(const Reference& reference, std::size_t index) {
  Request request;
  request.custom_id = "p" + std::to_string(index);
  request.line = static_cast<std::int64_t>(index) + 1;
  request.prompt = reference.prompts[index].tokens;
  request.max_tokens = static_cast<int>(reference.prompts[index].greedy.size());
  request.sampling.temperature = 0;
  request.ignore_eos = true;
  return request;
}

JobResult run_job(const std::filesystem::path& model, const std::vector<Request>& requests, const JobOptions& options,
                  CountingCommunicator& comm) {
  const ModelSpec spec = read_model_spec(model);
  const Checkpoint checkpoint(model);
  const Topology topology{{comm.ranks()}};
  const Plan plan =
      options.plan.value_or(contiguous_plan(spec.family, spec.moe_layer_ids(), spec.experts(), spec.top_k(), topology));
  const auto device = make_test_device(options);
  if (options.reserved > 0) device->reserve(options.reserved, options.reserved);
  const DeviceMessages messages(*device, comm);
  Worker worker(
      spec, checkpoint, plan, nullptr, *device, comm,
      {options.scheduler, options.kv_blocks, options.dtype, options.coherence, options.micro_batches, options.spill});
  poison(worker.kv(), *device);
  TraceRecorder trace(comm.rank(), spec.top_k());
  LogitsRecorder logits;
  const auto watch = [&](const Batch& batch, std::span<const std::int32_t> rows, int layer, const Routing& routing) {
    trace.record(batch, rows, layer, routing);
    if (options.observe) options.observe(batch, rows, layer, routing);
  };
  if (options.watched) worker.observe_routing(watch);
  worker.scheduler().observe_prompt_logits(
      [&](const Request& r, std::span<const float> row) { logits.record(r, row); });

  JobResult result;
  std::size_t next = 0;
  EngineHooks hooks;
  if (options.short_of_memory) hooks.short_of_memory = options.short_of_memory;
  hooks.next_request = [&]() -> std::optional<Request> {
    if (next == requests.size()) return std::nullopt;
    return requests[next++];
  };
  if (options.on_step) hooks.progress = [&](std::int64_t, std::int64_t) { options.on_step(); };
  hooks.render = [](const Completion& c) {
    std::string line = c.request.custom_id;
    for (const std::int32_t token : c.tokens) line += " " + std::to_string(token);
    return line;
  };
  hooks.write = [&](const std::string& line) {
    std::istringstream in(line);
    std::string id;
    in >> id;
    result.order.push_back(id);
    auto& tokens = result.tokens[id];
    for (std::int32_t token = 0; in >> token;) tokens.push_back(token);
  };
  Engine engine(worker, comm, options.scheduler.max_batch_size, std::move(hooks));
  if (engine.run() != Stop::none) throw std::runtime_error("the job stopped before its work was done");
  result.steps = worker.metrics().steps();
  result.decode_steps = worker.metrics().of(StepKind::decode).steps;
  result.traffic = comm.traffic();
  result.metrics = gather_metrics(comm, comm, worker.metrics());
  if (options.watched) result.trace = trace.gather(comm, {});
  result.logits = logits.gather(comm);
  return result;
}

Plan fitted_plan(const std::filesystem::path& trace, int ranks) {
  const Trace recorded = read_trace(trace);
  const std::vector<WeightedTrace> traces{{&recorded}};
  Problem problem;
  problem.objective = Objective::affinity;
  problem.topology = {{ranks}};
  problem.balance.reset();
  problem.statistics = count(traces);
  Plan plan =
      contiguous_plan(recorded.model, recorded.layer_ids, recorded.num_experts, recorded.top_k, problem.topology);
  plan.slots_per_rank = problem.slots();
  plan.physical_to_logical = slots_of(problem, owners_of(make_bipartition_solver()->solve(problem, {}).assignment));
  validate(plan, "fitted plan");
  return plan;
}

Plan random_plan(const ModelSpec& spec, int ranks, std::uint64_t seed, double replicated_share) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int> rank(0, ranks - 1);
  std::bernoulli_distribution replicated(replicated_share);
  Plan plan = contiguous_plan(spec.family, spec.moe_layer_ids(), spec.experts(), spec.top_k(), Topology{{ranks}});
  std::vector<std::vector<std::vector<int>>> held(plan.layers(), std::vector<std::vector<int>>(ranks));
  std::size_t most = 1;
  for (auto& layer : held) {
    for (int expert = 0; expert < plan.experts; ++expert) {
      const int owner = rank(random);
      layer[owner].push_back(expert);
      const int second = rank(random);
      if (second != owner && replicated(random)) layer[second].push_back(expert);
    }
    for (const auto& experts : layer) most = std::max(most, experts.size());
  }
  plan.slots_per_rank = static_cast<int>(most);
  for (int l = 0; l < plan.layers(); ++l) {
    plan.physical_to_logical[l].assign(most * ranks, Plan::kEmptySlot);
    for (int r = 0; r < ranks; ++r)
      std::copy(held[l][r].begin(), held[l][r].end(), &plan.physical_to_logical[l][r * most]);
  }
  validate(plan, "random plan");
  return plan;
}

}  // namespace coterie
