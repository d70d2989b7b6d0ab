#include "runtime/worker.hpp"

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
}

std::vector<RowSample> Worker::step(std::int64_t step) {
  std::vector<RowSample> samples;
  double seconds = 0;
  const Batch& batch = scheduler_.next();
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
  std::int64_t prompt_rows = 0;
  std::int64_t decode_rows = 0;
  bool prefill = false;
  for (const BatchSequence& s : batch.sequences) {
    prefill = prefill || s.prompt;
    if (s.home == domains_.self()) (s.prompt ? prompt_rows : decode_rows) += s.rows;
  }
  ++metrics_.steps;
  metrics_.prompt_rows += prompt_rows;
  metrics_.decode_rows += decode_rows;
  metrics_.pure_decode_rows += prefill ? 0 : decode_rows;
  (prefill ? metrics_.prefill_seconds : metrics_.decode_seconds) += seconds;
  metrics_.kv_bytes = kv_.bytes();
  metrics_.kv_peak_bytes = kv_.peak_bytes();
}

}  // namespace coterie
