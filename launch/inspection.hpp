// What `coterie inspect` found, and the kinds of files that it knows: one function each.
#pragma once

#include "launch/command.hpp"
#include "placement/problem.hpp"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

struct InspectOptions {
  std::filesystem::path subject;
  std::vector<std::filesystem::path> traces;         ///< plan: count its figures on these
  bool check = false;                                ///< plan: verify what it says of itself
  std::optional<std::filesystem::path> certificate;  ///< plan: the dual values behind its bound
  std::optional<Objective> objective;                ///< plan: instead of its certificate's
  std::optional<Domain> domain;                      ///< plan: instead of its certificate's
  int ranks = 0;                                     ///< model: memory on so many ranks; 0: on 1, 2, 4, ...
  bool json = false;
};

// NOLINTNEXTLINE(bugprone-exception-escape): the JSON library's move asserts
struct Inspection {
  std::string text;     ///< for people, 80 columns
  nlohmann::json json;  ///< the same and more, for scripts
  int exit_code = kDone;
};

[[nodiscard]] Inspection inspect_trace(const std::filesystem::path& path);
[[nodiscard]] Inspection inspect_load_trace(const std::filesystem::path& path);
[[nodiscard]] Inspection inspect_plan(const InspectOptions& options);
[[nodiscard]] Inspection inspect_model(const InspectOptions& options);
[[nodiscard]] Inspection inspect_machine(const std::filesystem::path& path);

/// "0-23", "1, 3-5": ids of layers, ascending.
[[nodiscard]] std::string ranges_text(const std::vector<int>& ids);

}  // namespace coterie
