// Writes a synthetic trace: make_trace FILE TOKENS LAYERS EXPERTS CHOSEN [weights]
#include "tests/bench/synthetic_trace.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: make_trace FILE TOKENS LAYERS EXPERTS CHOSEN [weights]\n");
    return 2;
  }
  coterie::write_synthetic_trace(argv[1], {.tokens = std::atoll(argv[2]),
                                           .layers = std::atoi(argv[3]),
                                           .experts = std::atoi(argv[4]),
                                           .top_k = std::atoi(argv[5]),
                                           .weights = argc > 6 && std::strcmp(argv[6], "weights") == 0});
}
