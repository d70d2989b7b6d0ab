// The report of a plan for people: one self-contained HTML page, light and dark, that needs no network.
#pragma once

#include "placement/plan_facts.hpp"
#include "placement/solvers/solver.hpp"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

/// A row of the table of plans compared.
struct ComparedPlan {
  std::string name;
  Figures figures;
  double seconds = 0;
  std::string note;     ///< "breaks the load limit", ...; may be empty
  bool chosen = false;  ///< the plan that the report is about
};

/// What a plan is worth on sequences that it was not fitted on.
struct Holdout {
  double share = 0;           ///< of the sequences
  double tokens = 0;          ///< left out
  Figures fitted;             ///< the plan on what it was fitted on
  Figures left_out;           ///< the plan on what was left out
  Figures baseline_left_out;  ///< the plan it is compared with, there
};

struct ReportData {
  std::string model;
  std::vector<int> layer_ids;  ///< (layers)
  int top_k = 0;
  const Problem* problem =
      nullptr;  ///< what was solved; without traces or affinity the charts that need them are left out
  std::string before_name = "contiguous";
  Owners before;
  std::string after_name = "plan";
  Owners after;
  Certificate certificate;    ///< without bound_kind: nothing is proven
  std::vector<Bound> bounds;  ///< all that were computed, the certificate's included
  std::vector<ComparedPlan> compared;
  std::optional<Holdout> holdout;
  std::vector<std::string> warnings;
  std::vector<PlanSource> sources;
};

/// Replaces `path` in one step. Throws InputError when it can't be written.
void write_report(const std::filesystem::path& path, const ReportData& data);

}  // namespace coterie
