// What every transport must do. A transport's test names itself and how to make one:
//   INSTANTIATE_TEST_SUITE_P(Mpi, CommunicatorConformance, testing::Values(Transport{"mpi", [] { ... }}), name_of);
#pragma once

#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

namespace coterie {

struct Transport {
  std::string name;
  std::function<std::unique_ptr<Communicator>()> make;
};

inline std::string name_of(const testing::TestParamInfo<Transport>& info) {
  return info.param.name;
}
inline void PrintTo(const Transport& transport, std::ostream* out) {
  *out << transport.name;
}

class CommunicatorConformance : public testing::TestWithParam<Transport> {
 protected:
  std::unique_ptr<Communicator> comm_ = GetParam().make();
  int rank_ = comm_->rank();
  int ranks_ = comm_->ranks();
};

}  // namespace coterie
