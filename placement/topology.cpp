#include "placement/topology.hpp"

namespace coterie {

std::vector<int> Topology::node_of_rank() const {
  std::vector<int> node;
  for (int n = 0; n < nodes(); ++n) node.insert(node.end(), ranks_per_node[n], n);
  return node;
}

}  // namespace coterie
