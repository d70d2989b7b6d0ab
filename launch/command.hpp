// A subcommand of the program: what main() needs to know to list and to start it.
#pragma once

#include <span>
#include <string_view>

namespace coterie {

/// Exit codes of the program.
enum ExitCode : int {
  kDone = 0,
  kSomeFailed = 1,  ///< some requests failed; their error records are in the results
  kBadInput = 2,    ///< bad usage or bad input
  kFault = 3,       ///< the job was ended by a fault
  kStopped = 75,    ///< stopped by a signal with work left
};

struct Command {
  std::string_view name;
  std::string_view summary;  ///< one line for `coterie --help`
  /// `arguments` are those behind the subcommand's name. Throws InputError for bad usage and bad input.
  int (*run)(std::span<const char* const> arguments);
};

extern const Command kGenerate;
extern const Command kPlan;
extern const Command kInspect;
extern const Command kConvert;
extern const Command kDoctor;

/// All subcommands, in the order of `coterie --help`.
[[nodiscard]] std::span<const Command> commands();

}  // namespace coterie
