#include "runtime/engine/worker.hpp"

#include "runtime/engine/agreement.hpp"
#include "runtime/experts/expert_parcel.hpp"

#include <algorithm>

namespace coterie {
namespace {

/// Of the largest expert on any rank, as it is sent. Collective.
std::int64_t largest_parcel(const Weights& weights, Communicator& comm) {
  std::uint64_t largest = 1;
  for (const LayerWeights& layer : weights.layers) {
    for (const auto& expert : layer.moe.experts) largest = std::max(largest, expert ? parcel_bytes(*expert) : 0);
  }
  return -smallest(comm, -static_cast<std::int64_t>(largest));
}

std::unique_ptr<Spill> make_spill(const std::optional<SpillOptions>& options, const Plan& plan,
                                  const Ownership& ownership, const Weights& weights, Device& device,
                                  Communicator& comm) {
  if (!options || options->dispatch.policy == DispatchPolicy::plain || comm.ranks() == 1) return nullptr;
  SpillOptions known = *options;
  if (known.expert_bytes == 0) known.expert_bytes = largest_parcel(weights, comm);
  return std::make_unique<Spill>(known, dispatch_layers(plan, ownership, comm.node_of_rank()), comm.rank(), device);
}

/// As the first layer with several experts here has them.
void prepare_experts(const ModelSpec& spec, const Weights& weights, std::int64_t rows, Device& device) {
  for (const LayerWeights& layer : weights.layers) {
    std::vector<const ExpertWeights*> here;
    for (const auto& expert : layer.moe.experts) {
      if (expert) here.push_back(&*expert);
    }
    if (here.size() > 1) return device.prepare_experts(here, rows * spec.top_k());
  }
}

}  // namespace

Worker::Worker(const ModelSpec& spec, const Checkpoint& checkpoint, const Plan& plan, const Tokenizer* tokenizer,
               Device& device, Communicator& comm, const WorkerOptions& options)
    : notes_(comm),
      domains_(options.coherence, comm.rank(), comm.node_of_rank()),
      ownership_(plan, comm.rank(), comm.node_of_rank()),
      weights_(load_weights(spec, checkpoint, ownership_, device, options.weights)),
      kv_(spec, device, options.kv_blocks),
      spill_(make_spill(options.spill, plan, ownership_, weights_, device, comm)),
      context_{device, notes_, ownership_, domains_, metrics_, spill_.get()},
      transformer_(spec, weights_, kv_, context_, options.micro_batches),
      scheduler_(kv_, tokenizer, spec.end_tokens, domains_, options.scheduler) {
  metrics_.expert_rows.resize(static_cast<std::size_t>(spec.moe_layers()));
  metrics_.domain = domains_.of(comm.rank());
  prepare_experts(spec, weights_, options.scheduler.max_batch_tokens, device);
}

void Worker::forward(std::int64_t step) {
  step_start_ = std::chrono::steady_clock::now();
  batch_ = &scheduler_.next();
  metrics_.kind = batch_->has_prompts() ? StepKind::prefill : StepKind::decode;
  ++metrics_.now().steps;
  logits_ = transformer_.forward(*batch_, step, observer_);
  if (spill_) metrics_.spill = spill_->counts();
}

std::vector<RowSample> Worker::sample() {
  show_logits();
  std::vector<RowSampling> wanted;
  for (std::size_t i = 0; i < logits_.rows.size(); ++i) {
    if (auto row = scheduler_.wanted(logits_.rows[i])) {
      row->row = static_cast<std::int32_t>(i);
      wanted.push_back(*row);
    }
  }
  std::vector<Sampled> sampled;
  {
    const Timed timed(metrics_.phases.head);
    sampled = context_.device.sample(logits_.values, wanted);
  }
  std::vector<RowSample> samples;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const std::int32_t row = logits_.rows[static_cast<std::size_t>(wanted[i].row)];
    if (auto told = scheduler_.take(row, std::move(sampled[i]))) samples.push_back({row, std::move(*told)});
  }
  transformer_.count_pairs();
  count(*batch_, std::chrono::duration<double>(std::chrono::steady_clock::now() - step_start_).count());
  return samples;
}

void Worker::show_logits() {
  if (std::ranges::none_of(logits_.rows, [&](std::int32_t row) { return scheduler_.observes(row); })) return;
  const auto vocabulary = static_cast<std::size_t>(logits_.values.cols);
  std::vector<float> all(logits_.rows.size() * vocabulary);
  context_.device.download(logits_.values, all);
  for (std::size_t i = 0; i < logits_.rows.size(); ++i) {
    if (!scheduler_.observes(logits_.rows[i])) continue;
    scheduler_.show(logits_.rows[i], std::span(all).subspan(i * vocabulary, vocabulary));
  }
}

void Worker::count(const Batch& batch, double seconds) {
  StepCounts& now = metrics_.now();
  now.seconds += seconds;
  for (const BatchSequence& s : batch.sequences) {
    if (!s.here || (s.replicated && s.home != domains_.self())) continue;
    (s.prompt ? metrics_.prompt_rows : metrics_.decode_rows) += s.rows;
    now.tokens += s.rows;
  }
  metrics_.kv_bytes = kv_.bytes();
  metrics_.kv_peak_bytes = kv_.peak_bytes();
}

}  // namespace coterie
