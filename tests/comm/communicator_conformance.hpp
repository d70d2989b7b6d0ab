// What every transport must do. A transport's test names itself and how to make one:
//   INSTANTIATE_TEST_SUITE_P(Mpi, CommunicatorConformance, testing::Values(Transport{"mpi", [] { ... }}), name_of);
#pragma once

#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace coterie {

struct Transport {
  std::string name;
  std::function<std::unique_ptr<Communicator>()> make;
  /// What its messages' bulk is written and read with; read when a device would.
  std::function<void(std::span<const std::byte> from, const DeviceBytes& to)> write =
      [](std::span<const std::byte> from, const DeviceBytes& to) { std::ranges::copy(from, to.address()); };
  std::function<std::vector<std::byte>(const DeviceBytes& from)> read = [](const DeviceBytes& from) {
    return std::vector<std::byte>(from.span().begin(), from.span().end());
  };
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
