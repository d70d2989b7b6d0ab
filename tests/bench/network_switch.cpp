// An Ethernet switch for hosts that are network namespaces of one machine, with a rate and a delay that real links
// would have: it stands in for netem on kernels without it. scripts/netns-cluster starts it.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstring>
#include <iostream>
#include <map>
#include <queue>
#include <string>
#include <system_error>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Mac = std::array<unsigned char, ETH_ALEN>;

constexpr std::size_t kTunHeader = 10;            // struct virtio_net_hdr: how a large segment is to be cut
constexpr std::size_t kMostFrame = 65536 + 4096;  // bytes; segments travel uncut
constexpr int kBurst = 64;                        // frames taken from a port before the others have their turn

volatile std::sig_atomic_t stopped = 0;

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

/// A host's end of the cable: a tap device. Reading and writing moves frames with their tun header.
class Port {
 public:
  explicit Port(const std::string& name) : file_(open("/dev/net/tun", O_RDWR | O_NONBLOCK)) {
    if (file_ < 0) fail("/dev/net/tun");
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    if (ioctl(file_, TUNSETIFF, &request) != 0) fail(name);
    // Frames needn't be cut nor have checksums: they never leave the machine.
    if (ioctl(file_, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) != 0) fail(name);
  }

  [[nodiscard]] int file() const noexcept { return file_; }

 private:
  int file_;
};

struct Frame {
  Clock::time_point due;
  std::size_t from = 0;
  std::vector<char> bytes;

  [[nodiscard]] Mac mac(std::size_t offset) const {
    Mac mac;
    std::memcpy(mac.data(), bytes.data() + kTunHeader + offset, mac.size());
    return mac;
  }
};

struct Later {
  bool operator()(const Frame& a, const Frame& b) const { return a.due > b.due; }
};

class Switch {
 public:
  Switch(std::chrono::nanoseconds delay, double bytes_per_nanosecond, std::vector<Port> ports)
      : delay_(delay),
        rate_(bytes_per_nanosecond),
        ports_(std::move(ports)),
        sent_(ports_.size()),
        got_(ports_.size()) {}

  void run() {
    std::vector<pollfd> files;
    for (const Port& port : ports_) files.push_back({port.file(), POLLIN, 0});
    while (stopped == 0) {
      timespec wait{};
      if (!under_way_.empty()) {
        const auto left = std::max(under_way_.top().due - Clock::now(), Clock::duration::zero());
        wait = {left.count() / 1'000'000'000, left.count() % 1'000'000'000};
      }
      if (ppoll(files.data(), files.size(), under_way_.empty() ? nullptr : &wait, nullptr) < 0 && errno != EINTR) {
        fail("ppoll");
      }
      for (std::size_t p = 0; p < ports_.size(); ++p) take(p);
      for (const auto now = Clock::now(); !under_way_.empty() && under_way_.top().due <= now; under_way_.pop()) {
        deliver(under_way_.top());
      }
    }
  }

 private:
  void take(std::size_t from) {
    for (int i = 0; i < kBurst; ++i) {
      const ssize_t size = read(ports_[from].file(), buffer_.data(), buffer_.size());
      if (size < static_cast<ssize_t>(kTunHeader + sizeof(ether_header))) return;
      Frame frame{{}, from, {buffer_.data(), buffer_.data() + size}};
      port_of_[frame.mac(ETH_ALEN)] = from;
      // The cable of the sender, the delay, the cable of the receiver, which starts as soon as the first bit comes.
      const auto length = std::chrono::nanoseconds(static_cast<std::int64_t>(static_cast<double>(size) / rate_));
      sent_[from] = std::max(sent_[from], Clock::now()) + length;
      frame.due = sent_[from] + delay_;
      if (const auto to = port_of_.find(frame.mac(0)); to != port_of_.end()) {
        got_[to->second] = frame.due = std::max(frame.due, got_[to->second] + length);
      }
      under_way_.push(std::move(frame));
    }
  }

  void deliver(const Frame& frame) {
    const auto to = port_of_.find(frame.mac(0));
    for (std::size_t p = 0; p < ports_.size(); ++p) {
      // What a full port refuses is lost, as on a real one.
      if (p != frame.from && (to == port_of_.end() || to->second == p)) {
        [[maybe_unused]] const ssize_t size = write(ports_[p].file(), frame.bytes.data(), frame.bytes.size());
      }
    }
  }

  std::chrono::nanoseconds delay_;
  double rate_;
  std::vector<Port> ports_;
  std::vector<Clock::time_point> sent_;  ///< (ports): when the port has sent all it had
  std::vector<Clock::time_point> got_;   ///< (ports): when the port has received all that is under way to it
  std::map<Mac, std::size_t> port_of_;
  std::priority_queue<Frame, std::vector<Frame>, Later> under_way_;
  std::array<char, kMostFrame> buffer_;
};

double number(const char* text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc() || *end != 0 || !(value >= 0))
    throw std::invalid_argument(std::string(text) + ": no number");
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "usage: network_switch DELAY_US MBIT_PER_S TAP TAP...   (creates the tap devices)\n";
    return 2;
  }
  try {
    const std::chrono::nanoseconds delay(static_cast<std::int64_t>(number(argv[1]) * 1e3));
    const double bytes_per_nanosecond = number(argv[2]) / 8e3;
    std::vector<Port> ports;
    for (int i = 3; i < argc; ++i) ports.emplace_back(argv[i]);
    // Ranks that wait busily must not hold up the switch; without the right to this it runs as it may.
    const sched_param priority{.sched_priority = 1};
    sched_setscheduler(0, SCHED_FIFO, &priority);
    prctl(PR_SET_TIMERSLACK, 1);
    std::signal(SIGTERM, [](int) { stopped = 1; });
    std::cout << "ready" << std::endl;
    Switch(delay, bytes_per_nanosecond, std::move(ports)).run();
  } catch (const std::exception& e) {
    std::cerr << "network_switch: " << e.what() << '\n';
    return 1;
  }
  return 0;
}
