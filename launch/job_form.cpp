#include "launch/job_form.hpp"

#include "launch/gpu_memory.hpp"
#include "placement/number_text.hpp"
#include "runtime/cost/calibration.hpp"
#include "runtime/engine/agreement.hpp"
#include "runtime/engine/scheduler.hpp"
#include "runtime/layers/kv_pool.hpp"
#include "runtime/layers/weights.hpp"
#include "runtime/requests/request_reader.hpp"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <span>

namespace coterie {
namespace {

constexpr std::array kCoherences{Coherence::rank, Coherence::node, Coherence::world};

std::int64_t most_on_a_node(const Topology& topology) {
  return *std::max_element(topology.ranks_per_node.begin(), topology.ranks_per_node.end());
}

std::int64_t ranks_together(Coherence coherence, const Topology& topology) {
  return coherence == Coherence::rank ? 1 : coherence == Coherence::node ? most_on_a_node(topology) : topology.ranks();
}

/// Blocks of a rank's KV cache: as many as --kv-memory holds, else what the largest batch can need, but no more than
/// the ranks' share of a quarter of the node's memory, or three quarters of what weights and work leave of a GPU: the
/// rest is for steps with more work than reckoned.
std::int64_t kv_blocks(const GenerateOptions& options, const JobFacts& facts, const Device& device, int rank,
                       Coherence coherence) {
  const auto& [spec, checkpoint, plan, topology, rules] = facts;
  const std::int64_t block = KvPool::block_bytes(spec, device.activation_type());
  const std::int64_t together = ranks_together(coherence, topology);
  const std::int64_t wanted = together * options.max_batch_size * KvPool::blocks_for(spec.max_positions);
  const auto gpu = gpu_memory(options, facts, device, rank, together);
  if (gpu && together > 1 && gpu->left() < static_cast<std::int64_t>(options.kv_memory.value_or(block))) return 0;
  if (gpu && gpu->left() < block) throw does_not_fit(*gpu, block);
  const std::int64_t memory = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  const std::int64_t most = gpu ? gpu->left() : memory / most_on_a_node(topology);
  if (options.kv_memory) {
    if (*options.kv_memory > static_cast<std::uint64_t>(most)) {
      throw bad_field("coterie generate", "--kv-memory", std::to_string(*options.kv_memory) + " bytes",
                      "at most " + std::to_string(most) + " bytes" +
                          (gpu ? ": " + to_string(*gpu) : ", a rank's share of this node's memory"));
    }
    const std::int64_t blocks = static_cast<std::int64_t>(*options.kv_memory) / block;
    if (blocks == 0) {
      throw bad_field("coterie generate", "--kv-memory", std::to_string(*options.kv_memory) + " bytes",
                      "at least the " + std::to_string(block) + " bytes of one block of " +
                          std::to_string(KvPool::kBlockTokens) + " tokens");
    }
    return blocks;
  }
  return std::max<std::int64_t>(1, std::min(wanted, (gpu ? most / 4 * 3 : most / 4) / block));
}

/// The requests that an input file begins with, as many as the whole job runs at a time; answered ones too, so that a
/// job that is started again decides as before.
struct FirstBatch {
  double requests = 0;
  double blocks = 0;     ///< of the KV cache, of all
  double prompt = 0;     ///< tokens, on average
  double generated = 0;  ///< tokens at most, on average
  /// By Coherence: sequences of a rank with which the requests at the front would fit.
  std::array<std::int64_t, kCoherences.size()> largest{};
};

/// The KV memory of a rank in one coherence domain.
struct KvRoom {
  std::int64_t blocks = 0;    ///< there are
  std::int64_t together = 1;  ///< ranks of the domain
  std::int64_t ranks = 1;     ///< of the job

  /// Blocks of a rank for the domain's share of requests that take so many together.
  [[nodiscard]] double needed(double of_requests) const {
    return std::ceil(of_requests * static_cast<double>(together) / static_cast<double>(ranks));
  }
  [[nodiscard]] bool fits(double of_requests) const { return needed(of_requests) <= static_cast<double>(blocks); }
};

/// `rooms`: by Coherence.
FirstBatch first_batch(const std::filesystem::path& input, const RequestRules& rules, std::int64_t most,
                       std::span<const KvRoom> rooms) {
  RequestReader reader(input, rules);
  FirstBatch batch;
  for (std::int64_t i = 0; i < most; ++i) {
    const auto line = reader.next();
    if (!line) break;
    const auto* request = std::get_if<Request>(&*line);
    if (request == nullptr) continue;
    batch.requests += 1;
    batch.blocks += static_cast<double>(KvPool::blocks_for(Scheduler::kv_tokens(*request)));
    batch.prompt += static_cast<double>(request->prompt.size());
    batch.generated += request->max_tokens;
    for (std::size_t c = 0; c < rooms.size(); ++c) {
      const auto n = static_cast<std::int64_t>(batch.requests);
      if (n % rooms[c].ranks == 0 && rooms[c].fits(batch.blocks)) batch.largest[c] = n / rooms[c].ranks;
    }
  }
  for (double* sum : {&batch.prompt, &batch.generated}) *sum /= std::max(1.0, batch.requests);
  return batch;
}

FirstBatch of_first_rank(Communicator& comm, const FirstBatch& mine) {
  FirstBatch batch;
  const auto gathered = comm.all_gather(std::as_bytes(std::span(&mine, 1)), {"first batch"});
  std::memcpy(&batch, gathered[0].data(), sizeof batch);
  return batch;
}

InputError too_large(const GenerateOptions& options, Coherence coherence, const KvRoom& room, const FirstBatch& batch,
                     double block_bytes, bool on_gpu) {
  const std::string together = std::to_string(room.together);
  const std::int64_t largest = batch.largest[static_cast<std::size_t>(coherence)];
  const std::string smaller = largest > 0 ? "--max-batch-size " + std::to_string(largest) + " would fit"
                                          : "not even a batch of one sequence a rank would fit";
  return bad_field(
      "coterie generate", "--coherence",
      std::string("'") + to_string(coherence) + "', where each of " + together +
          " ranks holds the keys and values of all of them: " + bytes_text(room.needed(batch.blocks) * block_bytes) +
          " a rank for the first batch of " + grouped(room.needed(batch.requests)) + " sequences",
      std::string("at most ") + bytes_text(static_cast<double>(room.blocks) * block_bytes) +
          (options.kv_memory ? " (--kv-memory)"
           : on_gpu          ? " (what else there is on the GPU)"
                             : " (a quarter of the node's memory for its ranks)") +
          "; " + smaller + ", or more --kv-memory, or --coherence rank");
}

/// Whether another choice could change the last bits of a result: which replica a sum counts as depends on where the
/// sequence is at home.
bool form_shows_in_results(const Plan& plan) {
  if (plan.top_k <= 1) return false;
  for (int layer = 0; layer < plan.layers(); ++layer) {
    for (int expert = 0; expert < plan.experts; ++expert) {
      if (plan.owners(layer, expert).size() > 1) return true;
    }
  }
  return false;
}

std::string seconds_text(double seconds) {
  return metric(seconds) + "s";
}

std::string choice_note(const FormChoice& choice, double rows, const std::string& by) {
  return "coterie: auto: --coherence " + to_string(choice.form) + ": " + seconds_text(choice.cost.seconds) +
         " a decode step of " + grouped(rows) + " rows, plain expert parallelism " +
         seconds_text(choice.plain.seconds) + " (predicted, " + by + ")\n";
}

const char* to_string(DispatchPolicy policy) {
  return policy == DispatchPolicy::plain ? "plain" : policy == DispatchPolicy::llep ? "llep" : "least-loaded";
}

/// What spills cost by the machine's figures.
SpillOptions spill_options(const GenerateOptions& options, const JobFacts& facts, const Machine& machine, DType type) {
  constexpr double kPicoseconds = 1e12;
  constexpr double kPlanningSeconds = 3e-9;  // for an expert's rows of one rank, about
  constexpr std::int64_t kLabelBytes = 32;   // of a row there and back, about
  const ModelSpec& spec = facts.spec;
  std::int64_t experts = 0, intermediate = 1;
  for (const LayerSpec& layer : spec.layers) {
    if (!layer.moe) continue;
    intermediate = std::max(intermediate, layer.moe->experts.front().down.cols);
    if (!layer.moe->experts_of) experts += static_cast<std::int64_t>(layer.moe->experts.size());
  }
  SpillOptions spill;
  spill.dispatch = options.dispatch;
  spill.cache_bytes = static_cast<std::int64_t>(options.spill_cache);
  const std::int64_t expert_bytes =
      weight_bytes(spec, &facts.checkpoint, options.dtype).experts / std::max<std::int64_t>(1, experts);
  const std::int64_t row_bytes = 2 * spec.hidden * static_cast<std::int64_t>(size_of(type)) + kLabelBytes;
  spill.costs = dispatch_costs(machine, spec.hidden, intermediate, expert_bytes, row_bytes);
  const double latency = machine.between_nodes ? machine.between_nodes->latency : machine.inside_node.latency;
  const double cells = static_cast<double>(spec.experts()) * facts.topology.ranks();
  spill.counts_gather = std::llround(kPicoseconds * (latency + cells * kPlanningSeconds));
  spill.measures_gather = true;
  return spill;
}

}  // namespace

Topology topology_of(const Communicator& comm) {
  const auto nodes = comm.node_of_rank();
  Topology topology;
  topology.ranks_per_node.resize(static_cast<std::size_t>(*std::max_element(nodes.begin(), nodes.end())) + 1);
  for (const int node : nodes) ++topology.ranks_per_node[node];
  return topology;
}

JobForm job_form(const GenerateOptions& options, const JobFacts& facts, Device& device, Communicator& comm) {
  const Topology& topology = facts.topology;
  const auto type = device.activation_type();
  const auto block = static_cast<double>(KvPool::block_bytes(facts.spec, type));
  const bool decides = !options.coherence || !options.replicate || !options.micro_batches;
  const bool plain = options.coherence == Coherence::rank;

  FirstBatch batch;
  std::optional<Machine> machine;
  std::vector<KvRoom> rooms;  // by Coherence
  all_or_none(comm, [&] {
    for (const Coherence c : kCoherences) {
      rooms.push_back(
          {kv_blocks(options, facts, device, comm.rank(), c), ranks_together(c, topology), topology.ranks()});
    }
    if (!options.machine.empty()) machine = read_machine(options.machine);
  });
  for (KvRoom& room : rooms) room.blocks = smallest(comm, room.blocks);
  all_or_none(comm, [&] {
    const std::int64_t most = topology.ranks() * options.max_batch_size;
    if (comm.rank() == 0 && !plain) batch = first_batch(options.input, *facts.rules, most, rooms);
  });
  batch = of_first_rank(comm, batch);

  JobForm form;
  form.coherence = options.coherence.value_or(Coherence::rank);
  form.micro_batches = options.micro_batches.value_or(1);
  form.replicate = options.replicate.value_or(false);
  if (decides && topology.ranks() > 1 && !plain) {
    if (form_shows_in_results(facts.plan) && !machine) {
      form.notes =
          "coterie: auto: the plan has replicas, and which rank a sequence starts on shows in the last bits; a choice "
          "by "
          "measured times would not be the same every time: the simplest form (--machine lets it choose)\n";
    } else {
      const bool measured = !machine;
      if (measured) machine = calibrate(comm, device, facts.spec.hidden);
      FormLimits limits{options.coherence, options.replicate, options.micro_batches, {}};
      for (const Coherence c : {Coherence::node, Coherence::world}) {
        if (!rooms[static_cast<std::size_t>(c)].fits(batch.blocks)) limits.excluded.push_back(c);
      }
      const StepLoad load{std::max(1.0, batch.requests), batch.prompt + batch.generated / 2,
                          batch.prompt / std::max(1.0, batch.generated)};
      form.choice = choose_form(model_costs(facts.spec, type), {topology, *machine}, limits, load);
      form.machine = machine;
      form.coherence = form.choice->form.coherence;
      form.micro_batches = form.choice->form.micro_batches;
      form.replicate = form.choice->form.replicate;
      form.notes = choice_note(*form.choice, load.rows, measured ? "measured at the start" : "--machine");
    }
  }
  if (options.dispatch.policy != DispatchPolicy::plain && topology.ranks() > 1) {
    if (!machine) machine = calibrate(comm, device, facts.spec.hidden);
    form.machine = machine;
    form.spill = spill_options(options, facts, *machine, type);
  }
  const KvRoom& room = rooms[static_cast<std::size_t>(form.coherence)];
  form.kv_blocks = room.blocks;
  if (const auto gpu = gpu_memory(options, facts, device, comm.rank(), room.together)) {
    form.gpu_bytes = gpu->weights + gpu->step.own + form.kv_blocks * KvPool::block_bytes(facts.spec, type);
    form.pinned_bytes = gpu->step.shared;
  }
  if (room.together == 1) return form;
  if (!room.fits(batch.blocks))
    throw AgreedError(too_large(options, form.coherence, room, batch, block, !device.is_the_host()).what());
  form.notes += "coterie: --coherence " + std::string(to_string(form.coherence)) + ": keys and values take " +
                bytes_text(block / KvPool::kBlockTokens) + " a token on each of the " + std::to_string(room.together) +
                " ranks of a domain, " + bytes_text(room.needed(batch.blocks) * block) + " a rank for the first " +
                grouped(room.needed(batch.requests)) + " sequences; there are " +
                bytes_text(static_cast<double>(room.blocks) * block) + '\n';
  return form;
}

nlohmann::json form_json(const JobForm& form) {
  nlohmann::json json{{"coherence", to_string(form.coherence)},
                      {"micro_batches", form.micro_batches},
                      {"dense", form.replicate ? "replicate" : "follow"},
                      {"dispatch", to_string(form.spill ? form.spill->dispatch.policy : DispatchPolicy::plain)}};
  if (form.choice) {
    const auto cost_json = [](const StepCost& cost) {
      return nlohmann::json{
          {"step", cost.seconds}, {"exchange", cost.exchange}, {"dense", cost.dense}, {"experts", cost.experts}};
    };
    json["predicted_seconds"] = {{"picked", cost_json(form.choice->cost)}, {"plain", cost_json(form.choice->plain)}};
  }
  if (form.machine) json["machine"] = machine_json(*form.machine);
  return json;
}

}  // namespace coterie
