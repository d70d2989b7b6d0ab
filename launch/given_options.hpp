// The options of a command as they were given. Each value is checked as it is taken, and all commands say alike what is
// wrong with one.
#pragma once

#include "placement/input_error.hpp"

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/variables_map.hpp>

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coterie {

class GivenOptions {
 public:
  /// `arguments` are those behind the command's name; those that stand without an option are `positional`'s (empty:
  /// there may be none). No guessing: a script should not change its meaning when an option is added.
  GivenOptions(std::string_view command, boost::program_options::options_description known,
               std::span<const char* const> arguments, const std::string& positional = "");

  /// False for one that stands at its default.
  [[nodiscard]] bool has(const std::string& name) const;
  /// Empty for one that has no value.
  [[nodiscard]] std::string text(const std::string& name) const;
  /// Of an option that may be given several times.
  [[nodiscard]] std::vector<std::string> texts(const std::string& name) const;
  /// Empty where none was given.
  [[nodiscard]] std::filesystem::path path(const std::string& name) const;
  [[nodiscard]] std::filesystem::path required_path(const std::string& name) const;

  template <typename Number>
  [[nodiscard]] Number number(const std::string& name, Number least, Number most, const std::string& expected) const {
    return number_in(name, text(name), least, most, expected);
  }
  /// For `digits` that are part of the option's value.
  template <typename Number>
  [[nodiscard]] Number number_in(const std::string& name, std::string_view digits, Number least, Number most,
                                 const std::string& expected) const {
    Number value{};
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    const bool whole = error == std::errc() && end == digits.data() + digits.size();
    if (!whole || !(value >= least && value <= most)) throw wrong(name, digits, expected);
    return value;
  }

  /// "512MiB", of at least `least` bytes; `otherwise`: what else may be said, for the message.
  [[nodiscard]] std::uint64_t bytes(const std::string& name, double least, const std::string& otherwise = "") const;

  /// What the name that was given stands for.
  template <typename Value>
  [[nodiscard]] Value one_of(const std::string& name,
                             std::initializer_list<std::pair<std::string_view, Value>> choices) const {
    const std::string given = text(name);
    std::vector<std::string_view> names;
    for (const auto& [choice, value] : choices) {
      if (given == choice) return value;
      names.push_back(choice);
    }
    throw wrong(name, given, listed(names));
  }

  /// "coterie plan: --ranks", which starts every message about an option's value.
  [[nodiscard]] std::string label(const std::string& name) const;
  [[nodiscard]] InputError wrong(const std::string& name, std::string_view found, std::string_view expected) const;
  /// Found: its value.
  [[nodiscard]] InputError wrong(const std::string& name, std::string_view expected) const;
  [[nodiscard]] InputError missing(const std::string& name) const;

 private:
  /// "a, b or c"
  [[nodiscard]] static std::string listed(std::span<const std::string_view> names);

  std::string command_;  ///< "coterie plan"
  boost::program_options::variables_map values_;
};

}  // namespace coterie
