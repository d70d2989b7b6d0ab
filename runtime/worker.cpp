#include "runtime/worker.hpp"

namespace coterie {

Worker::Worker(const ModelSpec& spec, const Checkpoint& checkpoint, const Plan& plan, const Tokenizer* tokenizer,
               Device& device, Communicator& comm, const WorkerOptions& options)
    : ownership_(plan, comm.rank(), comm.node_of_rank()),
      weights_(load_weights(spec, checkpoint, ownership_, device, options.weights)),
      kv_(spec, device, options.kv_blocks),
      scratch_(device),
      context_{device, comm, ownership_, scratch_, metrics_},
      transformer_(spec, weights_, kv_, context_),
      scheduler_(kv_, tokenizer, spec.end_tokens, options.scheduler) {
  metrics_.expert_rows.resize(spec.layers.size());
}

std::vector<Completion> Worker::step(std::int64_t step) {
  double seconds = 0;
  const Batch& batch = scheduler_.next();
  const bool prefill = batch.prompt_rows > 0;
  auto done = [&] {
    const Timed timed(seconds);
    const auto logits = transformer_.forward(
        batch, step,
        observer_ ? RoutingObserver([&](int layer, const Routing& r) { observer_(batch, layer, r); })
                  : RoutingObserver());
    return scheduler_.accept(logits);
  }();
  const std::int64_t decode = batch.rows() - batch.prompt_rows;
  ++metrics_.steps;
  metrics_.prompt_rows += batch.prompt_rows;
  metrics_.decode_rows += decode;
  metrics_.pure_decode_rows += prefill ? 0 : decode;
  (prefill ? metrics_.prefill_seconds : metrics_.decode_seconds) += seconds;
  for (const Completion& c : done) metrics_.generated += static_cast<std::int64_t>(c.tokens.size());
  metrics_.kv_bytes = kv_.bytes();
  metrics_.kv_peak_bytes = kv_.peak_bytes();
  return done;
}

}  // namespace coterie
