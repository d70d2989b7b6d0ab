#include "placement/relaxation.hpp"

namespace coterie {

Relaxation empty_relaxation(int layers, int experts, int parts, int capacity) {
  Relaxation made;
  made.layers = layers;
  made.experts = experts;
  made.parts = parts;
  made.capacity = capacity;
  const auto square = static_cast<std::size_t>(made.items()) * made.items();
  made.share.assign(layers, std::vector<Share>(square, Share::maybe));
  made.share_between.assign(square, Share::maybe);
  return made;
}

}  // namespace coterie
