#include "runtime/cost/calibration.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <ctime>
#include <span>
#include <string>
#include <vector>

namespace coterie {
namespace {

constexpr double kEnough = 0.02;                // seconds of one measurement
constexpr std::uint64_t kFirstBytes = 8 << 10;  // of a rank to each other one
constexpr std::uint64_t kMostBytes = 4 << 20;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// ISO 8601, in UTC.
std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

/// One exchange in which every rank sends `bytes` to each other rank on its own node, or to each on other nodes.
void send(Communicator& comm, std::uint64_t bytes, bool between_nodes) {
  Outbox out(static_cast<std::size_t>(comm.ranks()));
  const auto nodes = comm.node_of_rank();
  for (int r = 0; r < comm.ranks(); ++r) {
    const bool apart = nodes[r] != nodes[comm.rank()];
    if (bytes > 0 && r != comm.rank() && apart == between_nodes) out[r] = Message(sizes_of({{Bulk::rows, bytes}}));
  }
  (void)comm.exchange(std::move(out), {"calibration"});
}

/// The slowest rank's value on all. Collective.
double largest(Communicator& comm, double mine) {
  double most = mine;
  for (const auto& bytes : comm.all_gather(std::as_bytes(std::span(&mine, 1)), {"calibration"})) {
    double theirs = 0;
    std::memcpy(&theirs, bytes.data(), sizeof theirs);
    most = std::max(most, theirs);
  }
  return most;
}

/// Median seconds of an exchange, the same on every rank.
double exchange_seconds(Communicator& comm, std::uint64_t bytes, bool between_nodes, int times) {
  std::vector<double> seconds;
  for (int i = 0; i < times; ++i) {
    const auto start = std::chrono::steady_clock::now();
    send(comm, bytes, between_nodes);
    seconds.push_back(seconds_since(start));
  }
  std::sort(seconds.begin(), seconds.end());
  return largest(comm, seconds[seconds.size() / 2]);
}

/// Bytes per second that a rank sends while all do; more and more bytes until the time for them shows.
double bandwidth(Communicator& comm, double latency, bool between_nodes) {
  std::int64_t others = 0;  // the most that a rank sends to
  const auto nodes = comm.node_of_rank();
  for (const int a : nodes) {
    others = std::max<std::int64_t>(others, std::count_if(nodes.begin(), nodes.end(), [&](int b) {
                                              return (a != b) == between_nodes;
                                            }) - (between_nodes ? 0 : 1));
  }
  for (std::uint64_t bytes = kFirstBytes;; bytes *= 4) {
    const double seconds = exchange_seconds(comm, bytes, between_nodes, 3);
    if (seconds > std::max(kEnough / 4, 3 * latency) || bytes >= kMostBytes) {
      const double sent = static_cast<double>(bytes) * static_cast<double>(others);
      return sent / std::max(seconds - latency, 1e-2 * seconds);
    }
  }
}

double product_rate(Communicator& comm, Device& device, const PackedMatrix& weight, std::int64_t rows) {
  DeviceMemory in_memory, out_memory;
  const Tensor in = device.allocate(rows, weight.in_features(), in_memory);
  const Tensor out = device.allocate(rows, weight.out_features(), out_memory);
  device.upload(std::vector<float>(static_cast<std::size_t>(in.rows * in.cols), 0.5F), in);
  device.linear(in, weight, out);
  send(comm, 0, false);  // all ranks at once: they may share cores
  int products = 0;
  double seconds = 0;
  for (int times = 2; seconds < kEnough; times *= 2) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) device.linear(in, weight, out);
    device.wait();  // a GPU has only taken note of them
    seconds = seconds_since(start);
    products = times;
  }
  seconds = largest(comm, seconds / products);
  return 2 * static_cast<double>(rows * weight.in_features() * weight.out_features()) / seconds;
}

}  // namespace

Machine calibrate(Communicator& comm, Device& device, std::int64_t width) {
  const auto nodes = comm.node_of_rank();
  const int node_count = *std::max_element(nodes.begin(), nodes.end()) + 1;
  const bool several_nodes = node_count > 1;
  const bool shared_nodes = comm.ranks() > node_count;
  Machine machine;
  machine.measured_by = "coterie " COTERIE_VERSION;
  machine.measured_when = now_text();
  machine.measured_on = std::to_string(comm.ranks()) + (comm.ranks() == 1 ? " rank on " : " ranks on ") +
                        std::to_string(node_count) + (several_nodes ? " nodes, " : " node, ") + device.name();
  (void)exchange_seconds(comm, 0, false, 3);  // connections are made when they are first used
  const double once = exchange_seconds(comm, 0, false, 3);
  const double latency = exchange_seconds(comm, 0, false, static_cast<int>(std::clamp(2 * kEnough / once, 3.0, 101.0)));
  machine.inside_node = {latency, 1e12};
  if (shared_nodes) machine.inside_node.bandwidth = bandwidth(comm, latency, false);
  if (several_nodes) machine.between_nodes = Link{latency, bandwidth(comm, latency, true)};

  const std::int64_t out_width = std::clamp<std::int64_t>((1 << 20) / width, 16, 4 * width);
  const auto weight = device.pack({out_width, width, [&](std::int64_t, std::int64_t count, float* out) {
                                     std::fill_n(out, count * width, 1e-3F);
                                   }});
  for (const std::int64_t rows : {1, 4, 16, 64, 256}) {
    machine.gemm.push_back({rows, product_rate(comm, device, *weight, rows)});
  }
  return machine;
}

}  // namespace coterie
