#include "runtime/requests/helper_process.hpp"

#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>

namespace coterie {
namespace {

constexpr std::size_t kLongestAnswer = std::size_t{1} << 30;  // bytes
constexpr std::size_t kHead = 8;                              // bytes of a frame's length

/// What a helper is started with: the socket as stdin and stdout, nothing else of ours but stderr.
class SpawnSettings {
 public:
  explicit SpawnSettings(int socket) {
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, socket, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, socket, STDOUT_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    posix_spawnattr_init(&attributes);
    sigset_t blocked;
    sigemptyset(&blocked);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&blocked, signal);
    posix_spawnattr_setsigmask(&attributes, &blocked);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  posix_spawn_file_actions_t files{};
  posix_spawnattr_t attributes{};
};

[[noreturn]] void fail(const std::string& what) {
  throw HelperError(what + ": " + std::strerror(errno));
}

}  // namespace

HelperProcess::HelperProcess(const std::vector<std::string>& command) {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) fail("no socket for " + command.front());
  const SpawnSettings settings(ends[1]);
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  errno =
      posix_spawnp(&child_, command.front().c_str(), &settings.files, &settings.attributes, arguments.data(), environ);
  const bool started = errno == 0;
  close(ends[1]);
  if (!started) {
    close(ends[0]);
    fail(command.front() + " can't be started");
  }
  socket_ = ends[0];
}

HelperProcess::~HelperProcess() {
  close(socket_);
  if (child_ < 0) return;
  kill(child_, SIGKILL);
  while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void HelperProcess::ended() {
  int status = 0;
  pid_t waited = 0;
  while ((waited = waitpid(child_, &status, 0)) < 0 && errno == EINTR) {
  }
  child_ = -1;
  if (waited < 0) throw HelperError("it ended");
  if (WIFSIGNALED(status)) throw HelperError(std::string("it was ended by a signal: ") + strsignal(WTERMSIG(status)));
  throw HelperError("it ended with exit code " + std::to_string(WEXITSTATUS(status)));
}

void HelperProcess::wait_for(short event, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd poll_socket{socket_, event, 0};
    const int ready = left > 0 ? poll(&poll_socket, 1, static_cast<int>(left)) : 0;
    if (ready > 0) return;
    if (ready == 0) throw HelperError("it did not answer in time");
    if (errno != EINTR) fail("poll");
  }
}

void HelperProcess::send(std::string_view bytes, Clock::time_point deadline) {
  while (!bytes.empty()) {
    wait_for(POLLOUT, deadline);
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EPIPE || errno == ECONNRESET) {
      ended();
    } else if (errno != EINTR && errno != EAGAIN) {
      fail("send");
    }
  }
}

std::string HelperProcess::receive(std::size_t bytes, Clock::time_point deadline) {
  std::string data(bytes, '\0');
  for (std::size_t got = 0; got < bytes;) {
    wait_for(POLLIN, deadline);
    const ssize_t received = recv(socket_, data.data() + got, bytes - got, MSG_DONTWAIT);
    if (received > 0) {
      got += static_cast<std::size_t>(received);
    } else if (received == 0 || errno == ECONNRESET) {
      ended();
    } else if (errno != EINTR && errno != EAGAIN) {
      fail("recv");
    }
  }
  return data;
}

std::string HelperProcess::ask(std::string_view message, std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  std::string head(kHead, '\0');
  for (std::size_t i = 0; i < kHead; ++i)
    head[i] = static_cast<char>(std::uint64_t{message.size()} >> (8 * (kHead - 1 - i)));
  send(head, deadline);
  send(message, deadline);
  std::uint64_t size = 0;
  for (const char c : receive(kHead, deadline)) size = size << 8U | static_cast<unsigned char>(c);
  if (size > kLongestAnswer) throw HelperError("it answered with " + std::to_string(size) + " bytes");
  return receive(size, deadline);
}

}  // namespace coterie
