// The file formats of other systems: what each is called, and how its traces and plans are read and written.
#pragma once

#include "placement/plan.hpp"
#include "placement/trace/load_trace.hpp"
#include "placement/trace/trace.hpp"

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace coterie {

/// What a foreign file doesn't say and its reader or writer may need. What is left empty is taken from the file, or is
/// an InputError that names the option.
struct FormatOptions {
  std::string model;
  int experts = 0;
  int top_k = 0;
  std::vector<int> layer_ids;     ///< which layers of the model the rows are
  std::vector<int> dense_layers;  ///< layers of the model without experts
  int hidden_layers = 0;          ///< layers of the model, dense ones too
  std::optional<Topology> topology;
  std::optional<GateOrder> gate_order;
  std::optional<bool> normalized;  ///< whether weights that router logits give are normalized over the chosen experts
  bool fill = false;               ///< empty slots may get replicas where the target has no empty slots
  std::function<void(const std::string&)> note;  ///< is told what was assumed or left out
};

/// Choices of tokens, or counts alone.
using AnyTrace = std::variant<Trace, LoadTrace>;

/// Functions are null where the format has no such thing. All throw InputError.
struct TraceFormat {
  std::string_view name;
  std::string_view summary;
  bool (*recognises)(const std::filesystem::path&);
  AnyTrace (*read)(std::span<const std::filesystem::path>, const FormatOptions&);
  void (*write)(const std::filesystem::path&, const AnyTrace&, const FormatOptions&);
};
struct PlanFormat {
  std::string_view name;
  std::string_view summary;
  bool (*recognises)(const std::filesystem::path&);
  Plan (*read)(const std::filesystem::path&, const FormatOptions&);
  void (*write)(const std::filesystem::path&, const Plan&, const FormatOptions&);
};

/// In the order of `coterie convert --help`; the project's own first.
[[nodiscard]] std::span<const TraceFormat> trace_formats();
[[nodiscard]] std::span<const PlanFormat> plan_formats();

// Each is defined in the file of its name.
extern const TraceFormat kCoterieTrace;
extern const TraceFormat kCoterieLoad;
extern const TraceFormat kSglangRecord;
extern const TraceFormat kTensorrtLlmStatistics;
extern const TraceFormat kVllmRoutedExperts;
extern const TraceFormat kVllmLoadStats;
extern const TraceFormat kMegatronTrace;
extern const TraceFormat kHfRouterLogits;
extern const TraceFormat kExflowTrace;
extern const PlanFormat kCoteriePlan;
extern const PlanFormat kSglangPlan;
extern const PlanFormat kTensorrtLlmPlan;
extern const PlanFormat kVllmMapping;
extern const PlanFormat kVllmEpRanks;
extern const PlanFormat kVllmAscendPlan;
extern const PlanFormat kEplbPlan;
extern const PlanFormat kExflowPlan;

}  // namespace coterie
