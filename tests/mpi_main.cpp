// main() of tests that run on several ranks: every rank runs every test; a failure says its rank; the exit code is the
// largest over the ranks.
#include "comm/communicator.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iostream>

namespace coterie {
namespace {

MpiSession* session = nullptr;

/// Lines of failures with the rank in front; passes only on rank 0.
class RankPrinter final : public testing::EmptyTestEventListener {
 public:
  explicit RankPrinter(int rank) : rank_(rank) {}
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::cerr << "[rank " << rank_ << "] " << (result.file_name() ? result.file_name() : "?") << ':'
              << result.line_number() << ": " << result.summary() << std::endl;
  }

 private:
  int rank_;
};

}  // namespace

MpiSession& test_session() { return *session; }

}  // namespace coterie

int main(int argc, char** argv) {
  coterie::MpiSession session(argc, argv);
  coterie::session = &session;
  testing::InitGoogleTest(&argc, argv);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (session.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new coterie::RankPrinter(session.rank()));
  const int  mine = RUN_ALL_TESTS();
  const auto communicator = coterie::make_mpi_communicator(session, {});
  int        worst = 0;
  for (const auto& code : communicator->all_gather(std::as_bytes(std::span(&mine, 1)), {"exit codes"})) {
    int theirs = 0;
    std::memcpy(&theirs, code.data(), sizeof theirs);
    worst = std::max(worst, theirs);
  }
  return worst;
}
