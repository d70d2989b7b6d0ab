// The command line of `coterie plan`.
#pragma once

#include "placement/problem.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace coterie {

struct PlanOptions {
  struct Source {
    std::filesystem::path path;
    double weight = 1;
  };
  std::vector<Source> traces;
  std::int64_t first = 0;   ///< window of every trace's tokens
  std::int64_t count = -1;  ///< -1: all that follow
  int top = 0;
  double holdout = 0;  ///< share of the sequences
  std::filesystem::path machine;

  Topology topology;
  int slots = 0;  ///< 0: as many as are needed
  int replicas = 0;
  std::uint64_t memory = 0;       ///< bytes of a rank for experts; 0: no limit
  std::uint64_t expert_size = 0;  ///< bytes of an expert of one layer
  bool unequal_counts = false;

  Objective objective = Objective::traffic;
  Domain domain = Domain::world;
  std::optional<LinkPrices> prices;  ///< none: the machine file's, or 1 : 8
  std::optional<double> balance = 1.1;
  bool strict_balance = false;  ///< it was asked for: don't raise it where no placement keeps it

  std::string solver = "auto";
  double time_limit = 60;
  double gap = 0.01;
  std::uint64_t seed = 1;
  int threads = 0;
  bool compare = false;
  bool bound = true;

  std::filesystem::path output, certificate, report;
};

/// `arguments` are those behind `plan`. Nothing when they ask for help. Throws InputError (option, found, expected).
[[nodiscard]] std::optional<PlanOptions> parse_plan_options(std::span<const char* const> arguments);

/// One screen: the options in groups, with their defaults.
[[nodiscard]] std::string plan_help();

}  // namespace coterie
