#include "comm/mpi_check.hpp"

#include "comm/communicator.hpp"

#include <array>
#include <string>

namespace coterie {

void throw_mpi_error(int code, const char* expression, const char* file, int line) {
  std::array<char, MPI_MAX_ERROR_STRING + 1> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  throw CommError(std::string(text.data(), static_cast<std::size_t>(length)) + " (" + expression + ", " + file + ':' +
                  std::to_string(line) + ')');
}

}  // namespace coterie
