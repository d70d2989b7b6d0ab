#include "comm/mpi_version.hpp"

#include "comm/mpi_check.hpp"

#include <array>

namespace coterie {
namespace {

std::string of_header() {
#if defined(OMPI_MAJOR_VERSION)
  return "Open MPI " + std::to_string(OMPI_MAJOR_VERSION) + '.' + std::to_string(OMPI_MINOR_VERSION) + '.' +
         std::to_string(OMPI_RELEASE_VERSION);
#elif defined(MPICH_VERSION)
  return "MPICH " MPICH_VERSION;
#else
  return "MPI " + std::to_string(MPI_VERSION) + '.' + std::to_string(MPI_SUBVERSION);
#endif
}

}  // namespace

MpiVersion mpi_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING + 1> text{};
  int length = 0;
  MPI_CHECK(MPI_Get_library_version(text.data(), &length));
  std::string library(text.data());
  // Open MPI goes on with ", package: ..., ident: ...", MPICH with lines.
  library = library.substr(0, library.find_first_of(",\n"));
  while (!library.empty() && library.back() == ' ') library.pop_back();
  return {of_header(), library};
}

}  // namespace coterie
