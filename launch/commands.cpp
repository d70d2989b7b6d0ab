#include "launch/command.hpp"

namespace coterie {

std::span<const Command> commands() { return {}; }

}  // namespace coterie
