#include "runtime/requests/helper_process.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>

namespace coterie {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLong{30'000};

std::string error_of(HelperProcess& helper, milliseconds patience = kLong) {
  try {
    return "answered " + helper.ask("x", patience);
  } catch (const HelperError& e) {
    return e.what();
  }
}

void expect_no_children() {
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(HelperProcess, AnswersWhatItIsAsked) {
  {
    HelperProcess echo({"cat"});
    const std::string bytes("a\0\xFF\n", 4);
    EXPECT_EQ(echo.ask(bytes, kLong), bytes);
    EXPECT_EQ(echo.ask("", kLong), "");
    EXPECT_EQ(echo.ask(std::string(50'000, 'x'), kLong), std::string(50'000, 'x'));
  }
  expect_no_children();
}

TEST(HelperProcess, SaysHowItEnded) {
  HelperProcess exits({"sh", "-c", "exit 3"}), killed({"sh", "-c", "kill -9 $$"}), halts({"sh", "-c", "printf 12345"});
  EXPECT_EQ(error_of(exits), "it ended with exit code 3");
  EXPECT_EQ(error_of(killed), "it was ended by a signal: Killed");
  EXPECT_EQ(error_of(halts), "it ended with exit code 0");
}

TEST(HelperProcess, IsNotWaitedForLongerThanAsked) {
  {
    HelperProcess silent({"sleep", "1000"});
    EXPECT_EQ(error_of(silent, milliseconds(50)), "it did not answer in time");
    HelperProcess deaf({"sleep", "1000"});
    EXPECT_THROW(static_cast<void>(deaf.ask(std::string(8'000'000, 'x'), milliseconds(50))), HelperError);
  }
  expect_no_children();
}

TEST(HelperProcess, AProgramThatIsNotThereIsNamed) {
  EXPECT_THROW(
      {
        try {
          HelperProcess({"/nowhere/python3"});
        } catch (const HelperError& e) {
          EXPECT_EQ(std::string(e.what()), "/nowhere/python3 can't be started: No such file or directory");
          throw;
        }
      },
      HelperError);
}

TEST(HelperProcess, HasNoneOfOurFilesAndIgnoresSignalsThatEndAJob) {
  const int ours = fcntl(STDERR_FILENO, F_DUPFD, 500);  // not closed by exec
  HelperProcess lists({"python3", "-c", R"(
import os, signal, sys
sys.stdin.buffer.read(9)
for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    os.kill(os.getpid(), name)
sys.stdout.buffer.write(bytes(7) + b"\3" + (b"yes" if os.path.exists("/proc/self/fd/" + sys.argv[1]) else b"no "))
)",
                       std::to_string(ours)});
  EXPECT_EQ(lists.ask("x", kLong), "no ");
  close(ours);
}

}  // namespace
}  // namespace coterie
