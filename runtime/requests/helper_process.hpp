// A program that runs beside a rank and answers what it is asked, over a socket that is its stdin and stdout.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

/// The helper couldn't be started, or ended, or did not answer in time: what() says which. It is of no further use.
struct HelperError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Messages are frames: 8 bytes of length, big endian, then as many bytes. The helper has none of this process's open
/// files, isn't told of the signals that end a job, and sees the end of its input when this process ends in any way.
class HelperProcess {
 public:
  /// `command` is a program, looked for in PATH, and its arguments.
  explicit HelperProcess(const std::vector<std::string>& command);
  /// Ends the helper, and waits for it.
  ~HelperProcess();
  HelperProcess(const HelperProcess&) = delete;
  HelperProcess& operator=(const HelperProcess&) = delete;

  /// Sends a message and waits for the answer.
  [[nodiscard]] std::string ask(std::string_view message, std::chrono::milliseconds patience);

 private:
  using Clock = std::chrono::steady_clock;

  void wait_for(short event, Clock::time_point deadline);
  void send(std::string_view bytes, Clock::time_point deadline);
  [[nodiscard]] std::string receive(std::size_t bytes, Clock::time_point deadline);
  [[noreturn]] void ended();

  int socket_ = -1;
  pid_t child_ = -1;
};

}  // namespace coterie
