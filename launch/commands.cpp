#include "launch/command.hpp"

#include <array>

namespace coterie {

std::span<const Command> commands() {
  static const std::array all{kPlan, kGenerate, kInspect, kConvert, kDoctor};
  return all;
}

}  // namespace coterie
