// main() of tests that run on several ranks: every rank runs every test; a failure says its rank. The exit code is 1 if
// a test failed on any rank, else 77 if one was skipped, else 0.
#include "tests/mpi_main.hpp"

#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <exception>
#include <iostream>
#include <span>

namespace coterie {
namespace {

constexpr int kSkipped = 77;

MpiSession* session = nullptr;

/// Lines of failures with the rank in front; the default printer tells of passes on rank 0.
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

struct Outcome {
  bool failed;
  int skipped;  ///< tests
};

Outcome run_tests() {
  const bool failed = RUN_ALL_TESTS() != 0;
  return {failed, testing::UnitTest::GetInstance()->skipped_test_count()};
}

/// Tells every rank how it went everywhere.
std::vector<Outcome> gather(const Outcome& mine) {
  std::vector<Outcome> outcomes;
  const auto communicator = make_mpi_communicator(*session, {.timeout = std::chrono::seconds(60)});
  for (const auto& bytes : communicator->all_gather(std::as_bytes(std::span(&mine, 1)), {"the tests' outcome"})) {
    std::copy(bytes.begin(), bytes.end(), std::as_writable_bytes(std::span(&outcomes.emplace_back(), 1)).begin());
  }
  return outcomes;
}

int exit_code(const std::vector<Outcome>& outcomes) {
  if (std::any_of(outcomes.begin(), outcomes.end(), [](const Outcome& o) { return o.failed; })) return 1;
  if (std::any_of(outcomes.begin(), outcomes.end(),
                  [&](const Outcome& o) { return o.skipped != outcomes[0].skipped; })) {
    std::cerr << "some ranks skipped tests that others did not skip\n";
    return 1;
  }
  return outcomes[0].skipped > 0 ? kSkipped : 0;
}

}  // namespace

MpiSession& test_session() {
  return *session;
}

bool on_all_ranks(bool mine) {
  const auto all = make_mpi_communicator(*session, {})->all_gather(std::as_bytes(std::span(&mine, 1)), {"agreement"});
  return std::all_of(all.begin(), all.end(), [](const auto& theirs) { return theirs[0] != std::byte{0}; });
}

}  // namespace coterie

int main(int argc, char** argv) {
  coterie::MpiSession session(argc, argv);
  coterie::session = &session;
  testing::InitGoogleTest(&argc, argv);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (session.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new coterie::RankPrinter(session.rank()));
  try {
    return coterie::exit_code(coterie::gather(coterie::run_tests()));
  } catch (const std::exception& e) {
    std::cerr << "[rank " << session.rank() << "] " << e.what() << std::endl;
    session.abort(3);
  }
}
