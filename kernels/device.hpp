// The operations of a device: one interface, one implementation per kind of device. The CPU's is the reference.
#pragma once

#include "kernels/sampling.hpp"
#include "kernels/tensor.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

struct CUstream_st;

namespace coterie {

/// Which product a weight is for: a device may pack experts' in a way that only experts() reads.
enum class WeightUse { linear, expert_gate_up, expert_down };

/// Where the numbers of a weight matrix come from, (rows, cols), whatever they are stored as.
struct WeightSource {
  std::int64_t rows = 0;  ///< output features
  std::int64_t cols = 0;  ///< input features
  /// Writes rows [first, first + count) as f32, row-major and dense. May be called in any order, each row once.
  std::function<void(std::int64_t first, std::int64_t count, float* out)> read;
  bool fits_bf16 = false;  ///< every number is a bf16's: a device may keep it so and lose nothing
  /// The same rows as bf16, for those that fit; may be missing. Each row is asked for once, from here or from `read`.
  std::function<void(std::int64_t first, std::int64_t count, std::uint16_t* out)> read_bf16 = {};
  WeightUse use = WeightUse::linear;
};

/// What a device must know of a packed matrix to multiply with its bytes.
struct PackedForm {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::int64_t layout = 0;  ///< the kind of device's own
};

/// A weight matrix as its device multiplies with it: packed once, read-only afterwards.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  [[nodiscard]] virtual std::int64_t out_features() const noexcept = 0;
  [[nodiscard]] virtual std::int64_t in_features() const noexcept = 0;
  /// The packed form in device memory, one contiguous piece: what may be sent to a device of the same kind.
  [[nodiscard]] virtual std::span<const std::byte> bytes() const noexcept = 0;
  [[nodiscard]] virtual PackedForm form() const noexcept = 0;
};

/// (up + offset) * gate * sigmoid(alpha * gate); the defaults are SwiGLU's.
struct Gating {
  float alpha = 1;
  float offset = 0;
  float limit = 0;  ///< gate is limited to at most this, up to [-limit, limit]; 0: neither
  bool operator==(const Gating&) const = default;
};

/// A gated expert: y = down (gating(gate x, up x)), each product with its bias where there is one.
struct ExpertWeights {
  std::unique_ptr<PackedMatrix> gate_up;  ///< (2 * intermediate, hidden): the rows of gate, then those of up
  std::unique_ptr<PackedMatrix> down;     ///< (hidden, intermediate)
  DeviceArray gate_up_bias = {};          ///< (1, 2 * intermediate), or no memory
  DeviceArray down_bias = {};             ///< (1, hidden), or no memory
  Gating gating = {};
};

/// Rows [first_row, first_row + rows) of a grouped call belong to this expert.
struct ExpertRows {
  const ExpertWeights* expert = nullptr;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
};

/// Where the gradients of an expert's weights are added: f32, laid out as the weights are before they are packed.
struct ExpertGradients {
  Tensor gate_up;            ///< (2 * intermediate, hidden)
  Tensor down;               ///< (hidden, intermediate)
  Tensor gate_up_bias = {};  ///< (1, 2 * intermediate) where the expert has one
  Tensor down_bias = {};     ///< (1, hidden) where the expert has one
};

/// Rows that went through their experts, and a loss that takes weights[r] times row r of what came out.
struct ExpertsBackward {
  Tensor in;                         ///< (rows, hidden): what experts() got
  Tensor out_gradient;               ///< (rows, hidden): of the loss, by the weighted outputs
  std::span<const float> weights;    ///< (rows)
  Tensor in_gradient;                ///< (rows, hidden): written
  std::span<float> weight_gradient;  ///< (rows): written
};

/// Adds `weight` times row `row` of the experts' outputs.
struct Contribution {
  std::int32_t row = 0;
  float weight = 0;
};

/// Rows by their addresses, `cols` numbers of activation_type() each, and what each is the sum of.
struct RowSums {
  struct Part {
    const std::byte* from = nullptr;
    float weight = 0;
  };
  struct Row {
    std::byte* to = nullptr;
    std::int32_t first = 0, last = 0;  ///< of its parts
  };
  std::vector<Row> rows;
  std::vector<Part> parts;

  void open(std::byte* to) {
    const auto next = static_cast<std::int32_t>(parts.size());
    rows.push_back({to, next, next});
  }
  /// To the row opened last.
  void add(const std::byte* from, float weight = 1) {
    parts.push_back({from, weight});
    ++rows.back().last;
  }
};

/// Rotary embedding of the first `2 * inverse_frequencies.size()` columns of each head; halves rotated against each
/// other (GPT-NeoX order), or neighbours when `interleaved`.
struct Rotary {
  std::vector<float> inverse_frequencies;
  float scale = 1;  ///< on sine and cosine (YaRN's attention factor)
  bool interleaved = false;
};

/// What a router's logits become.
enum class Scoring {
  softmax,            ///< over all experts
  sigmoid,            ///< each by itself
  softmax_of_chosen,  ///< experts are chosen by their logits, and the softmax is over the chosen ones
  sparse_mixer,       ///< one after the other: a softmax over the rest, without what is far below its largest logit
};

enum class GroupScore { largest, two_largest };  ///< of a group's choice scores; two_largest: their sum

/// How experts are chosen, in this order: the logits' bias, scoring, the choice bias, the best groups, the top_k of
/// them, top_p, null experts, normalisation, scale.
struct RouterOptions {
  int top_k = 1;
  bool normalise = false;  ///< divide the chosen weights by their sum
  float added_to_sum = 0;  ///< to that sum before the division
  float least_sum = 0;     ///< that sum is at least this
  float scale = 1;         ///< on the weights, last
  Scoring scoring = Scoring::softmax;
  float jitter = 0;    ///< sparse_mixer: experts are far below m when (m - logit) / max(|logit|, m) exceeds twice this
  int groups = 1;      ///< consecutive experts, groups of equal size
  int top_groups = 1;  ///< only the experts of so many groups may be chosen
  GroupScore group_score = GroupScore::largest;
  float top_p = 1;       ///< fewer than top_k, as soon as the scores of the chosen reach this sum; 1: always top_k
  int null_experts = 0;  ///< the last so many outputs are no experts: they may be chosen, and leave their place empty
  bool operator==(const RouterOptions&) const = default;
};

/// A router's biases, (1, experts) each in f32; without data: none.
struct RouterBiases {
  Tensor logits;  ///< added to the logits
  Tensor choice;  ///< added to the scores that experts and groups are chosen by, not to those that weigh
};

/// Experts of each token by falling weight; ties: the lower id first. Empty places are last: expert -1, weight 0.
struct Routing {
  int top_k = 0;
  std::vector<std::int32_t> experts;  ///< (tokens, top_k)
  std::vector<float> weights;         ///< (tokens, top_k), as applied
};

/// The rows of a call by their experts, in the device's memory: those of each expert in their order. Valid until the
/// device's next group().
struct RowGroups {
  std::int64_t rows = 0;
  int top_k = 0;
  int experts = 0;
  const std::int32_t* first = nullptr;  ///< (experts + 1): where each expert's rows begin; the last: how many they are
  const std::int32_t* row = nullptr;    ///< (first[experts]): of the call
  const std::int32_t* place = nullptr;  ///< (rows, top_k): where a row's choices are among those; of empty places: -1
  const float* weight = nullptr;        ///< (rows, top_k), as in Routing
};

/// All experts of a layer, by id, as add_experts() takes them; they outlive this object.
class ExpertSet {
 public:
  explicit ExpertSet(std::vector<const ExpertWeights*> experts) : experts_(std::move(experts)) {}
  virtual ~ExpertSet() = default;
  [[nodiscard]] std::span<const ExpertWeights* const> experts() const noexcept { return experts_; }

 private:
  std::vector<const ExpertWeights*> experts_;
};

/// The paged cache of one layer. A block holds the rows of `block_tokens` consecutive positions of one sequence, as
/// many numbers as that in activation_type(); their order in it is the device's own: only write_kv and attention know
/// it.
struct KvCache {
  std::byte* k = nullptr;  ///< (blocks, block_tokens * kv_heads * head_dim)
  std::byte* v = nullptr;  ///< the same; unused where rows are key and value in one (latent attention)
  int block_tokens = 16;   ///< fastest as a multiple of 16
  int head_dim = 0;        ///< a device may keep a head's numbers of a block together; 0: unknown, slower
};

struct AttentionShape {
  int heads = 0;
  int kv_heads = 0;  ///< divides heads
  int head_dim = 0;
  float scale = 0;  ///< on the scores, usually head_dim^-1/2
  int window = 0;   ///< a position sees itself and window - 1 before it; 0: all
};

/// Latent attention (DeepSeek-V2, arXiv 2405.04434) in its absorbed form: all heads share a position's one row, the
/// latent columns, which are key and value alike, and then the rotated key's.
struct LatentShape {
  int heads = 0;
  int latent = 0;
  int rope = 0;
  float scale = 0;  ///< on the scores
};

/// Rows of one sequence in a call, at consecutive positions: a chunk of a prompt, or the one row of a decode step.
struct SequenceRows {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t first_position = 0;       ///< of first_row
  std::span<const std::int32_t> blocks;  ///< the sequence's blocks: position p is in blocks[p / block_tokens]
};

struct DeviceOptions {
  DType weights = DType::f32;  ///< how weights are kept; sums are f32 either way
  int threads = 1;             ///< of a CPU
  DType activations = DType::f32;
  bool graphs = true;  ///< of a GPU: what is repeated goes as one graph
};

/// All activations are Tensors of activation_type() in memory that allocate() gave or that the transport reads and
/// writes (host memory for the CPU). Host arrays (std::span, std::vector) are read before a call returns.
///
/// Row invariance: what is computed for a row is the same to the last bit whatever other rows are in the call, so a
/// token's result depends neither on the batch nor on the chunking.
///
/// Broken preconditions (shapes that don't fit) throw std::invalid_argument; failed library calls std::runtime_error.
class Device {
 public:
  virtual ~Device() = default;

  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual DType activation_type() const noexcept = 0;
  /// Whether its memory is the host's, and a call that returns is done.
  [[nodiscard]] virtual bool is_the_host() const noexcept { return true; }
  [[nodiscard]] virtual DeviceMemory allocate(std::size_t bytes) = 0;
  /// Memory that the host touches too; between the two comes a wait().
  [[nodiscard]] virtual DeviceMemory allocate_shared(std::size_t bytes) { return allocate(bytes); }
  /// Takes so much of either at once, to give pieces of it from here on; once, and more only where it isn't enough.
  /// Throws std::runtime_error with the bytes wanted and those that are free.
  virtual void reserve(std::size_t, std::size_t /*shared*/) {}
  /// Bytes that allocate() could give; nothing: the host's memory.
  [[nodiscard]] virtual std::optional<std::size_t> free_memory() const { return std::nullopt; }
  /// Returns when all that was asked for is done.
  virtual void wait() {}
  /// Called again and again while the host waits in there; what it throws ends the wait.
  virtual void while_waiting(const std::function<void()>& /*look*/) {}
  /// The work that is asked for comes in stretches, each ended by a wait() or a precede(): the number of the one that
  /// goes on now, and whether all the work of one is done.
  [[nodiscard]] virtual std::uint64_t stretch() const noexcept { return 0; }
  [[nodiscard]] virtual bool is_done(std::uint64_t /*stretch*/) { return true; }
  /// What a stream of the same kind is given from here on waits for what was asked for so far; and the other way round.
  virtual void precede(CUstream_st* /*stream*/) {}
  virtual void follow(CUstream_st* /*stream*/) {}
  /// Runs `body`, once. Bodies with the same key ask mostly for the same: a device may learn it and put it to work at
  /// once when the body ends, or where it waits. What the body gives to copy() and to kernels is still there then.
  virtual void repeat(std::uint64_t /*key*/, const std::function<void()>& body) { body(); }
  /// In such a body, before the host waits for something else: what was asked for so far is put to work.
  virtual void start() {}
  /// Uninitialised, dense, in memory that `memory` receives.
  [[nodiscard]] Tensor allocate(std::int64_t rows, std::int64_t cols, DeviceMemory& memory);

  /// f32 on the host -> device and back; dense on the host, (rows, cols).
  virtual void upload(std::span<const float> host, const Tensor& out) = 0;
  virtual void download(const Tensor& in, std::span<float> host) = 0;

  /// Bytes from its memory, or shared memory, to either; in shared memory the host finds them after a wait(). `to` is
  /// as large as `from`.
  virtual void copy(std::span<const std::byte> from, std::span<std::byte> to);

  /// Packs a weight as it is read: beside the packed form at most a few MiB are needed at a time.
  [[nodiscard]] virtual std::unique_ptr<PackedMatrix> pack(const WeightSource& source) = 0;
  /// A matrix that a device of the same kind packed, as its form() and bytes() say. A view: `bytes`, on a boundary of
  /// 64 bytes, outlive it.
  [[nodiscard]] virtual std::unique_ptr<PackedMatrix> adopt(const PackedForm& form,
                                                            std::span<const std::byte> bytes) = 0;

  /// out (n, cols) = rows of `table`, which may be of another type (an embedding kept as bf16).
  virtual void gather(const Tensor& table, std::span<const std::int32_t> rows, const Tensor& out) = 0;
  /// out_t = sum of the contributions [offsets[t], offsets[t + 1]) of `in`, in that order; out_t += with accumulate.
  /// offsets: (out.rows + 1), ascending; they need not begin at 0.
  virtual void combine(const Tensor& in, std::span<const std::int64_t> offsets,
                       std::span<const Contribution> contributions, const Tensor& out, bool accumulate = false) = 0;
  /// Each row = the sum of its parts, in their order; with accumulate they are added to it, and each sum is rounded.
  /// No part is a row that is written. Rows are given by address so that calls for rows elsewhere, and about as many,
  /// are alike to a device that repeats them.
  virtual void sum_rows(const RowSums& sums, std::int64_t cols, bool accumulate = false) = 0;
  /// So many rows or somewhat more: the same number for about as many, with which calls are alike in the same sense.
  [[nodiscard]] virtual std::int64_t room_for(std::int64_t rows) const { return rows; }
  /// out = in / rms(in) * weight, over groups of `weight.cols` columns when in.cols is a multiple of it (heads).
  virtual void rms_norm(const Tensor& in, const Tensor& weight, float epsilon, const Tensor& out) = 0;
  /// out = (in - mean(in)) / sqrt(var(in) + epsilon) * weight + bias, over all columns; `bias` may have no memory.
  virtual void layer_norm(const Tensor& in, const Tensor& weight, const Tensor& bias, float epsilon,
                          const Tensor& out) = 0;
  /// Each row of x += bias (1, cols).
  virtual void add_bias(const Tensor& x, const Tensor& bias) = 0;
  /// out += factor * in
  virtual void add(const Tensor& in, float factor, const Tensor& out) = 0;
  /// x = factor * x
  virtual void scale(const Tensor& x, float factor) = 0;
  /// x = min(max(x, -limit), limit)
  virtual void clamp(const Tensor& x, float limit) = 0;
  /// out = in * weight^T, or out += with accumulate.
  virtual void linear(const Tensor& in, const PackedMatrix& weight, const Tensor& out, bool accumulate = false) = 0;
  /// In place on (rows, heads * head_dim).
  virtual void rotary(const Tensor& x, int head_dim, const Rotary& rotary, std::span<const std::int64_t> positions) = 0;

  /// Writes K and V rows (rows, kv_heads * head_dim) of each sequence to its blocks; rows for latent attention are K,
  /// beside a V without columns.
  virtual void write_kv(const Tensor& k, const Tensor& v, std::span<const SequenceRows> sequences,
                        const KvCache& cache) = 0;
  /// Causal attention of q (rows, heads * head_dim) over what the cache holds up to each row's own position; prefill
  /// chunks and decode rows of many sequences in one call. `out` is not `q`. `sinks`, (1, heads): one more score for
  /// each softmax of a head, whose weight goes to nothing; without data: none.
  virtual void attention(const Tensor& q, const KvCache& cache, std::span<const SequenceRows> sequences,
                         const AttentionShape& shape, const Tensor& out, const Tensor& sinks = {}) = 0;

  /// Causal attention over rows (latent + rope) in the cache. The queries' parts: q_latent (rows, heads * latent),
  /// through the key's expansion already, and q_rope (rows, heads * rope). out (rows, heads * latent) are mean latents,
  /// which the value's expansion follows.
  virtual void latent_attention(const Tensor& q_latent, const Tensor& q_rope, const KvCache& cache,
                                std::span<const SequenceRows> sequences, const LatentShape& shape,
                                const Tensor& out) = 0;
  /// Each head's columns by themselves: out's (outputs) of head h = in's (inputs) of head h * weights[h]^T.
  virtual void linear_by_head(const Tensor& in, std::span<const std::unique_ptr<PackedMatrix>> weights,
                              const Tensor& out) = 0;

  /// Chooses by the logits in * weight^T.
  [[nodiscard]] virtual Routing route(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                                      const RouterBiases& biases) = 0;
  [[nodiscard]] Routing route(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options) {
    return route(in, weight, options, {});
  }
  /// Chooses as route() does and groups the rows by expert, without a word to the host.
  [[nodiscard]] virtual RowGroups group(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                                        const RouterBiases& biases) = 0;
  /// Experts of one shape.
  [[nodiscard]] virtual std::unique_ptr<ExpertSet> expert_set(std::vector<const ExpertWeights*> experts);
  /// x_t += the sum over row t's choices, in their order, of factor * weight * what `in`'s row t becomes in the expert;
  /// a row without any stays. The sum is rounded to activation_type() before it is added.
  virtual void add_experts(const Tensor& in, const RowGroups& groups, const ExpertSet& experts, float factor,
                           const Tensor& x) = 0;
  /// Tokens, or what is asked of given ones, by logits (rows, vocabulary). Throws BrokenLogits for the first row of
  /// `rows` that has such.
  [[nodiscard]] virtual std::vector<Sampled> sample(const Tensor& logits, std::span<const RowSampling> rows) = 0;
  /// out = factor * sigmoid(x * weight^T) * in, row by row, for a weight of one row (1, columns of x).
  virtual void gate(const Tensor& x, const PackedMatrix& weight, float factor, const Tensor& in, const Tensor& out) = 0;
  /// out = each row through its expert. What becomes of rows that are in no group isn't said. One call for all experts
  /// that have rows.
  virtual void experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out) = 0;
  /// Measures, in less than a second, which kernels experts() is to take for calls of experts like these and up to so
  /// many rows, where it has a choice. Once, at the start.
  virtual void prepare_experts(std::span<const ExpertWeights* const> /*experts*/, std::int64_t /*rows*/) {}
  /// The gradients of experts(); those of weights are added to `gradients`, (groups). f32 weights only. What went on
  /// inside the experts is computed once more instead of kept. An expert's rows are summed in their order, 1,024 at a
  /// time, each such sum then added.
  virtual void experts_backward(const ExpertsBackward& rows, std::span<const ExpertRows> groups,
                                std::span<const ExpertGradients> gradients) = 0;
};

/// Throws std::runtime_error with what is missing when the processor can't do options.weights.
[[nodiscard]] std::unique_ptr<Device> make_cpu_device(const DeviceOptions& options);

}  // namespace coterie
