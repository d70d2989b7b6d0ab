// Which MPI this is; may be asked before MPI starts.
#pragma once

#include <string>

namespace coterie {

struct MpiVersion {
  std::string built_with;  ///< "Open MPI 4.1.4": by the header that comm/ was compiled with
  std::string loaded;      ///< the first line that the library says of itself
};

[[nodiscard]] MpiVersion mpi_version();

}  // namespace coterie
