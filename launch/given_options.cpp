#include "launch/given_options.hpp"

#include <boost/program_options/parsers.hpp>
#include <boost/program_options/positional_options.hpp>

namespace coterie {

namespace po = boost::program_options;

GivenOptions::GivenOptions(std::string_view command, po::options_description known,
                           std::span<const char* const> arguments, const std::string& positional)
    : command_("coterie " + std::string(command)) {
  po::positional_options_description places;
  if (!positional.empty()) {
    known.add_options()(positional.c_str(), po::value<std::vector<std::string>>());
    places.add(positional.c_str(), -1);
  }
  const std::vector<std::string> words(arguments.begin(), arguments.end());
  const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
  try {
    po::store(po::command_line_parser(words).options(known).positional(places).style(style).run(), values_);
  } catch (const po::error& e) {
    throw InputError(command_ + ": " + e.what() + "; see " + command_ + " --help");
  }
}

bool GivenOptions::has(const std::string& name) const {
  return values_.count(name) != 0 && !values_[name].defaulted();
}

std::string GivenOptions::text(const std::string& name) const {
  return values_.count(name) != 0 ? values_[name].as<std::string>() : "";
}

std::vector<std::string> GivenOptions::texts(const std::string& name) const {
  return has(name) ? values_[name].as<std::vector<std::string>>() : std::vector<std::string>{};
}

std::filesystem::path GivenOptions::path(const std::string& name) const {
  if (has(name) && text(name).empty()) throw wrong(name, "a path");
  return text(name);
}

std::filesystem::path GivenOptions::required_path(const std::string& name) const {
  if (!has(name)) throw missing(name);
  return path(name);
}

std::uint64_t GivenOptions::bytes(const std::string& name, double least, const std::string& otherwise) const {
  constexpr std::pair<const char*, double> kUnits[] = {
      {"", 1},         {"B", 1},      {"K", 0x1p10},   {"KiB", 0x1p10}, {"M", 0x1p20}, {"MiB", 0x1p20}, {"G", 0x1p30},
      {"GiB", 0x1p30}, {"T", 0x1p40}, {"TiB", 0x1p40}, {"KB", 1e3},     {"MB", 1e6},   {"GB", 1e9},     {"TB", 1e12},
  };
  const std::string given = text(name);
  double value = 0;
  const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
  const std::string unit(end, given.data() + given.size());
  for (const auto& [name_of_unit, size] : kUnits) {
    const double total = value * size;
    if (error == std::errc() && unit == name_of_unit && total >= least && total < 0x1p63)
      return static_cast<std::uint64_t>(total);
  }
  throw wrong(name, otherwise + "a size such as 512MiB, 2GiB or 1000000");
}

std::string GivenOptions::label(const std::string& name) const {
  return command_ + ": --" + name;
}

InputError GivenOptions::wrong(const std::string& name, std::string_view found, std::string_view expected) const {
  return bad_field(command_, "--" + name, "'" + std::string(found) + "'", expected);
}

InputError GivenOptions::wrong(const std::string& name, std::string_view expected) const {
  return wrong(name, text(name), expected);
}

InputError GivenOptions::missing(const std::string& name) const {
  return InputError(label(name) + " is missing; see " + command_ + " --help");
}

std::string GivenOptions::listed(std::span<const std::string_view> names) {
  std::string text(names.front());
  for (std::size_t i = 1; i < names.size(); ++i) text.append(i + 1 < names.size() ? ", " : " or ").append(names[i]);
  return text;
}

}  // namespace coterie
