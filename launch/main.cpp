// The program `coterie`: finds the subcommand, runs it, and catches what it throws.
#include "launch/command.hpp"
#include "launch/text_page.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <csignal>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

namespace coterie {
namespace {

void print_help(std::ostream& out) {
  out << "coterie " COTERIE_VERSION
         ": expert-parallel runtime for mixture-of-experts language models\n\n"
         "usage: coterie COMMAND [options]        (ranks: mpirun -n P coterie COMMAND [options])\n\n";
  for (const Command& c : commands())
    out << "  " << c.name << std::string(12 - c.name.size(), ' ') << c.summary << '\n';
  out << "\n`coterie COMMAND --help` shows a command's options; `coterie --version` the version.\n";
}

int run(const std::vector<const char*>& arguments) {
  const std::string name = arguments.empty() ? "" : arguments.front();
  if (name.empty()) {
    print_help(std::cerr);
    return kBadInput;
  }
  if (name == "--help" || name == "-h" || name == "help") {
    print_help(std::cout);
    return kDone;
  }
  if (name == "--version") {
    std::cout << "coterie " COTERIE_VERSION "\n";
    return kDone;
  }
  const auto all = commands();
  const auto command = std::find_if(all.begin(), all.end(), [&](const Command& c) { return c.name == name; });
  if (command == all.end()) throw InputError("unknown command '" + name + "'; see coterie --help");
  return command->run(std::span(arguments).subspan(1));
}

}  // namespace
}  // namespace coterie

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may grow no further is an error of write(2) like a full disk
  try {
    const int code = coterie::run({argv + 1, argv + argc});
    std::cout.flush();
    if (!std::cout) throw coterie::InputError("standard output: cannot write");
    return code;
  } catch (const coterie::InputError& e) {
    std::cerr << coterie::complaint(e.what());
    return coterie::kBadInput;
  } catch (const std::exception& e) {
    std::cerr << coterie::complaint(e.what());
    return coterie::kFault;
  }
}
