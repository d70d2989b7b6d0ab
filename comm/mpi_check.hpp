// Turns MPI's error codes into exceptions.
#pragma once

#include <mpi.h>

namespace coterie {

/// Throws CommError with MPI's own text for `code`, the expression and where it stands.
[[noreturn]] void throw_mpi_error(int code, const char* expression, const char* file, int line);

}  // namespace coterie

#define MPI_CHECK(call)                                                \
  do {                                                                 \
    if (const int mpi_code = (call); mpi_code != MPI_SUCCESS) {        \
      ::coterie::throw_mpi_error(mpi_code, #call, __FILE__, __LINE__); \
    }                                                                  \
  } while (false)
