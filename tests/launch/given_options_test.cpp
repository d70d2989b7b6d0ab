// What every command says of a wrong value of any of its options, found in their help.
#include "launch/command.hpp"
#include "launch/convert_options.hpp"
#include "launch/generate_options.hpp"
#include "launch/plan_options.hpp"
#include "placement/input_error.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace coterie {
namespace {

using Arguments = std::vector<const char*>;

struct Subject {
  const char* name;
  Arguments enough;  ///< to start it
  std::function<std::string()> help;
  std::function<void(const Arguments&)> parse;
};

/// What a command prints when it is asked for help.
std::string printed_help(const Command& command) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(command.run(Arguments{"--help"}), kDone);
  return testing::internal::GetCapturedStdout();
}

std::vector<Subject> subjects() {
  return {
      {"generate",
       {"--model", "m", "--input", "i", "--output", "o", "--device", "auto"},
       generate_help,
       [](const Arguments& all) { static_cast<void>(parse_generate_options(all)); }},
      {"plan",
       {"--trace", "t", "--ranks", "4"},
       plan_help,
       [](const Arguments& all) { static_cast<void>(parse_plan_options(all)); }},
      {"inspect",
       {"no/such/file"},
       [] { return printed_help(kInspect); },
       [](const Arguments& all) { kInspect.run(all); }},
      {"convert",
       {"in", "--output", "out"},
       convert_help,
       [](const Arguments& all) { static_cast<void>(parse_convert_options(all)); }},
      {"doctor", {}, [] { return printed_help(kDoctor); }, [](const Arguments& all) { kDoctor.run(all); }},
  };
}

/// The options that take a value, and what the help calls it.
std::map<std::string, std::string> options_of(const std::string& help) {
  static const std::regex option(R"(^  (?:-\w \[ )?--([a-z-]+)(?: \])? ([^ \]][^ ]*))");
  std::map<std::string, std::string> all;
  std::istringstream lines(help);
  std::smatch found;
  for (std::string line; std::getline(lines, line);)
    if (std::regex_search(line, found, option)) all[found[1]] = found[2];
  return all;
}

std::string complaint(const Subject& subject, const std::string& option, const char* value) {
  const std::string name = "--" + option;
  Arguments all = subject.enough;
  // An option stands only once.
  if (const auto there = std::ranges::find(all, name, [](const char* a) { return std::string(a); }); there != all.end())
    all.erase(there, there + 2);
  all.insert(all.end(), {name.c_str(), value});
  try {
    subject.parse(all);
  } catch (const InputError& e) {
    return e.what();
  }
  return "nothing";
}

TEST(GivenOptions, EveryCommandSaysAlikeWhatIsWrongWithAnOption) {
  for (const Subject& subject : subjects()) {
    const auto options = options_of(subject.help());
    EXPECT_GE(options.size(), 1U) << subject.name;
    for (const auto& [option, shown] : options) {
      const bool is_path = shown.starts_with("FILE") || shown == "DIR";
      const bool is_free = std::string(subject.name) == "convert" && option == "model";
      for (const char* wrong : {"", "nonsense", "-1"}) {
        if (is_free || (is_path && *wrong != '\0')) continue;
        const std::string start =
            "coterie " + std::string(subject.name) + ": --" + option + ": found '" + wrong + "', expected ";
        const std::string text = complaint(subject, option, wrong);
        EXPECT_TRUE(text.starts_with(start) && text.size() > start.size()) << start << "...\n" << text;
      }
    }
  }
}

TEST(GivenOptions, OptionsOfAllKindsAreTried) {
  const auto of_plan = options_of(plan_help());
  EXPECT_EQ(of_plan.at("objective"), "NAME");
  EXPECT_EQ(of_plan.at("trace"), "FILE[=W]");
  EXPECT_EQ(of_plan.at("output"), "FILE");
  EXPECT_FALSE(of_plan.contains("compare"));
  EXPECT_FALSE(of_plan.contains("help"));
  EXPECT_EQ(options_of(generate_help()).at("kv-memory"), "SIZE");
}

}  // namespace
}  // namespace coterie
