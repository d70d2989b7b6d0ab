// The experts of one MoE layer on the ranks of a job, forward and backward: what a trainer calls behind its router.
#pragma once

#include "comm/communicator.hpp"
#include "runtime/experts/dispatch.hpp"
#include "runtime/experts/expert_calls.hpp"
#include "runtime/experts/spill.hpp"
#include "runtime/layers/scratch.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace coterie {

struct ExpertLayerShape {
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  int top_k = 1;
  Gating gating = {};
  int index = -1;  ///< of the layer, for messages about ranks that don't arrive and for what counts traffic
};

/// What a router chose for the rows of a call. An expert may be chosen twice; -1: the place is empty.
struct Choices {
  std::span<const std::int32_t> experts;  ///< (rows, top_k)
  std::span<const float> gates;           ///< (rows, top_k)
  /// Of the call on all ranks together, where each of them knows it: then where so few rows can't gain from a spill
  /// counts aren't gathered. Unknown: they are.
  std::optional<std::int64_t> rows_of_all = {};
};

/// What the backward pass needs of a forward pass: rows as they arrived, weights that came with them, who got what.
struct ExpertPass {
  struct Sent {
    std::vector<std::int32_t> rows;     ///< ascending
    std::vector<std::int32_t> choices;  ///< (rows, top_k): indices among the call's (rows, top_k), then -1
  };
  std::vector<Sent> sent;           ///< (ranks): what each computes of this rank's rows
  Inbox arrived;                    ///< (ranks)
  std::vector<std::int64_t> first;  ///< (ranks + 1): where each rank's rows begin among all that arrived
  GroupedRows groups;               ///< those, by expert
  std::map<int, std::shared_ptr<const ExpertWeights>> guests;  ///< experts of other ranks: that came, or were kept

  DispatchPlan::Stayed stayed = DispatchPlan::Stayed::policy;
  std::int64_t before = 0;  ///< predicted picoseconds of the slowest rank under plain
  std::int64_t after = 0;   ///< the same as it was done

  /// Pairs of a row and an expert that this rank computed.
  [[nodiscard]] std::int64_t computed() const noexcept { return groups.first.back(); }
};

/// y_t = sum over the choices of row t of gate * expert(x_t). Every choice is computed, wherever that is. A choice's
/// part of y_t and the gradients of its gate and of its row are the same to the last bit for any ranks and policy, and
/// so are the gradients of an expert's weights if one rank computes all of its rows. Sums over ranks go by rank, the
/// owner of an expert's weights first.
///
/// All members but the accessors and set_weights are collective. Activations and weights are f32, experts without
/// biases.
class ExpertLayer {
 public:
  /// An expert's owner is the lowest of the ranks that hold it. `device` and `comm` outlive this object.
  /// `spill.expert_bytes` are this layer's own, whatever it says. With `spill.cache_bytes` ranks keep experts that came
  /// to them until an expert's weights change: for inference, and for micro-batches between two steps of an optimiser.
  ExpertLayer(const ExpertLayerShape& shape, DispatchLayer placement, const SpillOptions& spill, Device& device,
              Communicator& comm);

  /// Experts that this rank holds, and those of them that it owns; ascending.
  [[nodiscard]] const std::vector<int>& held() const noexcept { return held_; }
  [[nodiscard]] const std::vector<int>& owned() const noexcept { return owned_; }

  /// Between a backward and a forward pass, on all ranks alike. What is kept is dropped, and counting begins anew.
  void set_dispatch(const SpillOptions& spill);
  /// Of all forward passes since.
  [[nodiscard]] const SpillCounts& counts() const noexcept { return spill_->counts(); }

  /// For every expert that is held, before the first forward pass and whenever they change, on every rank that holds
  /// it: gate_up (2 * intermediate, hidden), the rows of gate, then those of up; down (hidden, intermediate). No pass
  /// computes with what other ranks kept from before.
  void set_weights(int expert, std::span<const float> gate_up, std::span<const float> down);

  /// x and out: (rows, hidden). Two exchanges, and counts are gathered first unless the policy is plain or no spill can
  /// pay.
  [[nodiscard]] ExpertPass forward(const Tensor& x, const Choices& choices, const Tensor& out);

  struct Gradients {
    Tensor x;                                  ///< (rows, hidden): written
    std::span<float> gates;                    ///< (rows, top_k): written; 0 for empty places
    std::span<const ExpertGradients> weights;  ///< (owned): added to
  };
  /// `choices` and weights are still those of the forward pass. Two exchanges; the second one also carries gradients of
  /// weights to their owners.
  void backward(ExpertPass pass, const Tensor& out_gradient, const Gradients& gradients);

 private:
  [[nodiscard]] Outbox depart(const Tensor& x, const Choices& choices, ExpertPass& pass, SpillCall& call);
  /// The rank of each choice, -1 for none.
  [[nodiscard]] std::vector<int> plan(const Choices& choices, ExpertPass& pass, SpillCall& call);
  [[nodiscard]] Message message_for(const Tensor& x, const Choices& choices, const ExpertPass::Sent& sent,
                                    std::span<const DispatchTransfer> gives);
  void arrive(Inbox& arrived, ExpertPass& pass) const;
  /// None where they are neither held nor among the guests.
  [[nodiscard]] const ExpertWeights* weights(int expert, const decltype(ExpertPass::guests)& guests) const;
  [[nodiscard]] std::vector<ExpertRows> calls(const ExpertPass& pass) const;
  /// (pairs): the rows that each rank sent, by expert.
  void gather_pairs(Inbox& from, const ExpertPass& pass, const Tensor& out) const;
  /// For the rows that a rank sent, the sums of their pairs.
  void sum_pairs(const Tensor& pairs, std::span<const Contribution> contributions, const ExpertPass& pass, int rank,
                 const Tensor& out) const;
  /// For each row of this rank the sum of what came back for it.
  void sum_ranks(Inbox& sums, const ExpertPass& pass, const Tensor& out) const;

  /// Room in messages for what goes back, with blocks for the gradients of others' weights.
  [[nodiscard]] Outbox gradient_messages(const ExpertPass& pass, const Gradients& gradients,
                                         std::vector<ExpertGradients>& of_groups) const;
  void set_to_zero(const Tensor& x) const;
  void add_weight_gradients(Inbox& came, const Gradients& gradients) const;

  [[nodiscard]] Place place(const char* collective) const { return {collective, shape_.index}; }
  [[nodiscard]] std::uint64_t row_bytes(std::int64_t rows) const;
  [[nodiscard]] Tensor as_rows(const DeviceBytes& section) const;
  [[nodiscard]] int owner(int expert) const;

  ExpertLayerShape shape_;
  DispatchLayer placement_;
  Device& device_;
  Communicator& comm_;
  Scratch scratch_;
  bool plain_ = true;
  std::optional<Spill> spill_;  ///< always
  std::vector<int> held_, owned_;
  std::map<std::int32_t, ExpertWeights> weights_;  ///< of held_
};

}  // namespace coterie
