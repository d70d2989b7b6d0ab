#include "runtime/worker.hpp"

#include <algorithm>

namespace coterie {

Worker::Worker(const ModelSpec& spec, const Checkpoint& checkpoint, const Plan& plan, const Tokenizer* tokenizer,
               Device& device, Communicator& comm, const WorkerOptions& options)
    : domains_(options.coherence, comm.rank(), comm.node_of_rank()),
      ownership_(plan, comm.rank(), comm.node_of_rank()),
      weights_(load_weights(spec, checkpoint, ownership_, device, options.weights)),
      kv_(spec, device, options.kv_blocks),
      context_{device, comm, ownership_, domains_, metrics_},
      transformer_(spec, weights_, kv_, context_, options.micro_batches),
      scheduler_(kv_, tokenizer, spec.end_tokens, domains_, options.scheduler) {
  metrics_.expert_rows.resize(static_cast<std::size_t>(spec.moe_layers()));
  metrics_.domain = domains_.of(comm.rank());
}

std::vector<RowSample> Worker::step(std::int64_t step) {
  std::vector<RowSample> samples;
  double seconds = 0;
  const Batch& batch = scheduler_.next();
  const bool prompts =
      std::any_of(batch.sequences.begin(), batch.sequences.end(), [](const auto& s) { return s.prompt; });
  metrics_.kind = prompts ? StepKind::prefill : StepKind::decode;
  {
    const Timed timed(seconds);
    const Logits logits = transformer_.forward(batch, step, observer_);
    const auto vocabulary = logits.rows.empty() ? 0 : logits.values.size() / logits.rows.size();
    for (std::size_t i = 0; i < logits.rows.size(); ++i) {
      auto sampled = scheduler_.sample(logits.rows[i], logits.values.subspan(i * vocabulary, vocabulary));
      if (sampled) samples.push_back({logits.rows[i], std::move(*sampled)});
    }
  }
  count(batch, seconds);
  return samples;
}

void Worker::count(const Batch& batch, double seconds) {
  StepCounts& now = metrics_.now();
  ++now.steps;
  now.seconds += seconds;
  for (const BatchSequence& s : batch.sequences) {
    if (s.home != domains_.self()) continue;
    (s.prompt ? metrics_.prompt_rows : metrics_.decode_rows) += s.rows;
    now.tokens += s.rows;
  }
  metrics_.kv_bytes = kv_.bytes();
  metrics_.kv_peak_bytes = kv_.peak_bytes();
}

}  // namespace coterie
