#include "tests/comm/communicator_conformance.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace coterie {
namespace {

constexpr std::uint64_t kSeed = 20240611;
constexpr SectionSizes kSome = sizes_of({{Section::routes, 7}, {Bulk::rows, 1000}});

/// Sizes and contents of a message are a function of (sender, receiver, round), so that the receiver can check them.
std::mt19937_64 stream(int from, int to, int round) {
  std::seed_seq seed{static_cast<int>(kSeed), from, to, round};
  return std::mt19937_64(seed);
}

std::vector<std::byte> bytes_of(int from, int to, int round, std::size_t size) {
  auto random = stream(from, to, round);
  std::vector<std::byte> bytes(size);
  std::generate(bytes.begin(), bytes.end(), [&] { return std::byte(random()); });
  return bytes;
}

Message filled(const SectionSizes& sizes, int from, int to, int round) {
  Message message(sizes, static_cast<std::uint64_t>(from * 1000 + to));
  for (std::size_t s = 0; s < kSections; ++s) {
    const auto bytes = bytes_of(from, to, round + static_cast<int>(s), sizes[s]);
    if (s < kHostSections) {
      std::ranges::copy(bytes, message.section(static_cast<Section>(s)).begin());
    } else {
      CommunicatorConformance::GetParam().write(bytes, message.section(static_cast<Bulk>(s)));
    }
  }
  return message;
}

/// A section as the host's bytes.
std::vector<std::byte> bytes_in(Message& message, std::size_t s) {
  if (s >= kHostSections) return CommunicatorConformance::GetParam().read(message.section(static_cast<Bulk>(s)));
  const auto section = message.section(static_cast<Section>(s));
  return {section.begin(), section.end()};
}

void expect_filled(Message& message, const SectionSizes& sizes, int from, int to, int round) {
  EXPECT_EQ(message.flags(), static_cast<std::uint64_t>(from * 1000 + to));
  for (std::size_t s = 0; s < kSections; ++s) {
    const auto bytes = bytes_in(message, s);
    EXPECT_EQ(bytes, bytes_of(from, to, round + static_cast<int>(s), sizes[s]))
        << "section " << s << " of " << bytes.size() << " bytes from rank " << from << ", expected " << sizes[s]
        << ", round " << round;
  }
}

/// Mostly small, sometimes empty, seldom large.
SectionSizes random_sizes(int from, int to, int round) {
  auto random = stream(from, to, -1 - round);
  SectionSizes sizes{};
  if (random() % 4 == 0) return sizes;
  for (auto& size : sizes) {
    const std::uint64_t limit = random() % 50 == 0 ? 300000 : random() % 5 == 0 ? 5000 : 200;
    if (random() % 2 == 0) size = random() % limit;
  }
  return sizes;
}

}  // namespace

TEST_P(CommunicatorConformance, AllGatherReturnsEveryRanksBytesByRank) {
  // Uneven sizes; rank 0 has none.
  const auto all = comm_->all_gather(bytes_of(rank_, 0, 0, 100 * std::size_t(rank_)), {"counts", 2, 5});
  ASSERT_EQ(all.size(), static_cast<std::size_t>(ranks_));
  for (int r = 0; r < ranks_; ++r) EXPECT_EQ(all[r], bytes_of(r, 0, 0, 100 * std::size_t(r))) << "rank " << r;
}

TEST_P(CommunicatorConformance, ExchangeBringsEverySectionToItsReceiver) {
  const auto sizes = [](int from, int to) {
    return sizes_of({{Section::routes, std::uint64_t(to * 1000)},
                     {Section::note, std::uint64_t(from + to)},
                     {Bulk::rows, std::uint64_t(from)},
                     {Bulk::freight, 64}});
  };
  Outbox outbox;
  for (int to = 0; to < ranks_; ++to) outbox.push_back(filled(sizes(rank_, to), rank_, to, 0));
  Inbox inbox = comm_->exchange(std::move(outbox), {"dispatch", 0, 0});
  ASSERT_EQ(inbox.size(), static_cast<std::size_t>(ranks_));
  for (int from = 0; from < ranks_; ++from) expect_filled(inbox[from], sizes(from, rank_), from, rank_, 0);
}

TEST_P(CommunicatorConformance, AnExchangeInPartsBringsRowsFirstAndWeightsToo) {
  const auto sizes = [](int from, int to) {
    return sizes_of({{Section::routes, std::uint64_t(100 * from)},
                     {Section::forms, std::uint64_t(from + to)},
                     {Bulk::rows, std::uint64_t(to * 1000)},
                     {Bulk::partial_sums, 64},
                     {Bulk::weights, from % 2 == 0 ? 200000 + std::uint64_t(to) : 0}});
  };
  for (int round = 0; round < 20; ++round) {
    Outbox outbox;
    for (int to = 0; to < ranks_; ++to) outbox.push_back(filled(sizes(rank_, to), rank_, to, round));
    comm_->begin(std::move(outbox), {"dispatch", 0, round});
    // Ranks are quick or slow, ask once or often, or not at all.
    if ((rank_ + round) % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
    if ((rank_ + round) % 4 == 1) (void)comm_->progress();
    std::vector<const std::byte*> memory;
    if (round % 5 != 4) {
      Inbox& rows = comm_->wait_for_rows();
      for (int from = 0; from < ranks_; ++from) {
        for (std::size_t s = 0; s < index_of(Bulk::weights); ++s) {
          EXPECT_EQ(bytes_in(rows[from], s), bytes_of(from, rank_, round + static_cast<int>(s), sizes(from, rank_)[s]));
        }
        memory.push_back(rows[from].section(Bulk::rows).address());
      }
    }
    for (int ask = 0; ask < rank_ && !comm_->progress(); ++ask) {
    }
    Inbox inbox = comm_->finish();
    for (int from = 0; from < ranks_; ++from) {
      expect_filled(inbox[from], sizes(from, rank_), from, rank_, round);
      EXPECT_TRUE(memory.empty() || inbox[from].section(Bulk::rows).address() == memory[from]);
    }
  }
}

TEST_P(CommunicatorConformance, ARankWithNothingTakesPart) {
  // The last rank sends default messages and gets some all the same.
  const bool empty = rank_ == ranks_ - 1;
  Outbox outbox(ranks_);
  if (!empty) {
    for (int to = 0; to < ranks_; ++to) outbox[to] = filled(kSome, rank_, to, 0);
  }
  Inbox inbox = comm_->exchange(std::move(outbox), {"dispatch"});
  for (int from = 0; from < ranks_ - 1; ++from) expect_filled(inbox[from], kSome, from, rank_, 0);
  EXPECT_EQ(inbox[ranks_ - 1].sizes(), SectionSizes{});
  EXPECT_EQ(inbox[ranks_ - 1].flags(), 0U);
}

TEST_P(CommunicatorConformance, FlagsTravelWithoutSections) {
  Outbox outbox;
  for (int to = 0; to < ranks_; ++to) outbox.emplace_back(SectionSizes{}, std::uint64_t(10 + rank_));
  Inbox inbox = comm_->exchange(std::move(outbox), {"combine"});
  for (int from = 0; from < ranks_; ++from) EXPECT_EQ(inbox[from].flags(), std::uint64_t(10 + from));
}

TEST_P(CommunicatorConformance, AMessageToItselfIsMoved) {
  Outbox outbox(ranks_);
  outbox[rank_] = filled(kSome, rank_, rank_, 0);
  const std::byte* memory = outbox[rank_].section(Bulk::rows).address();
  Inbox inbox = comm_->exchange(std::move(outbox), {"dispatch"});
  EXPECT_EQ(inbox[rank_].section(Bulk::rows).address(), memory);
  expect_filled(inbox[rank_], kSome, rank_, rank_, 0);
}

TEST_P(CommunicatorConformance, SectionsArriveAligned) {
  Outbox outbox;
  for (int to = 0; to < ranks_; ++to) outbox.push_back(filled({1, 1, 1, 1, 1, 1, 1, 1, 1}, rank_, to, 0));
  Inbox inbox = comm_->exchange(std::move(outbox), {"dispatch"});
  for (Message& message : inbox) {
    for (std::size_t s = 0; s < kSections; ++s) {
      const std::byte* at = s < kHostSections ? message.section(static_cast<Section>(s)).data()
                                              : message.section(static_cast<Bulk>(s)).address();
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % 64, 0U);
    }
  }
}

TEST_P(CommunicatorConformance, ManyCollectivesInARowDoNotMix) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  auto random = stream(rank_, rank_, 1 << 20);
  std::vector<int> block;
  const std::span<const int> none;
  const auto block_of_ranks = [&](int size) -> std::span<const int> {
    block.clear();
    for (int r = rank_ / size * size; r < std::min(ranks_, (rank_ / size + 1) * size); ++r) block.push_back(r);
    return block;
  };
  for (int round = 0; round < 300 && !HasFailure(); ++round) {
    // Ranks come late at random, so that some are a collective ahead of others.
    if (random() % 20 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    if (round % 3 == 2) {
      const auto size = [&](int from) { return random_sizes(from, 0, round)[0]; };
      const auto all = comm_->all_gather(bytes_of(rank_, 0, round, size(rank_)), {"counts", 0, round});
      for (int r = 0; r < ranks_; ++r) EXPECT_EQ(all[r], bytes_of(r, 0, round, size(r))) << "rank " << r;
      continue;
    }
    // Now and then only neighbours exchange, in blocks of ranks of whatever size.
    const Place place{"dispatch", round % 4, round, "", round % 4 == 1 ? block_of_ranks(1 + round % ranks_) : none};
    Outbox outbox(ranks_);
    for (int to = 0; to < ranks_; ++to) {
      if (place.takes_part(to)) outbox[to] = filled(random_sizes(rank_, to, round), rank_, to, round);
    }
    Inbox inbox = comm_->exchange(std::move(outbox), place);
    for (int from = 0; from < ranks_; ++from) {
      if (place.takes_part(from)) {
        expect_filled(inbox[from], random_sizes(from, rank_, round), from, rank_, round);
      } else {
        EXPECT_TRUE(inbox[from].empty());
      }
    }
  }
}

TEST_P(CommunicatorConformance, RanksThatHaveNoPartDoNotHoldUpTheOthers) {
  // All but the last exchange often; what it meanwhile sends them for the next collective of all has to wait.
  std::vector<int> others(static_cast<std::size_t>(std::max(1, ranks_ - 1)));
  std::iota(others.begin(), others.end(), 0);
  for (int round = 0; rank_ < std::max(1, ranks_ - 1) && round < 20; ++round) {
    Outbox outbox(ranks_);
    for (const int to : others) outbox[to] = filled(sizes_of({{Bulk::rows, 20000}}), rank_, to, round);
    Inbox inbox = comm_->exchange(std::move(outbox), {"dispatch", 1, round, "", others});
    for (const int from : others) expect_filled(inbox[from], sizes_of({{Bulk::rows, 20000}}), from, rank_, round);
  }
  Outbox outbox;
  for (int to = 0; to < ranks_; ++to) outbox.push_back(filled(sizes_of({{Bulk::rows, 20000}}), rank_, to, 99));
  Inbox inbox = comm_->exchange(std::move(outbox), {"dispatch", 2, 99});
  for (int from = 0; from < ranks_; ++from)
    expect_filled(inbox[from], sizes_of({{Bulk::rows, 20000}}), from, rank_, 99);
}

TEST_P(CommunicatorConformance, AMessageForARankWithoutPartIsRefused) {
  if (ranks_ == 1) return;
  const std::vector<int> alone{rank_};
  Outbox outbox(ranks_);
  outbox[(rank_ + 1) % ranks_] = Message(SectionSizes{8});
  EXPECT_THROW((void)comm_->exchange(std::move(outbox), {"dispatch", 0, 0, "", alone}), CommError);
  EXPECT_NO_THROW((void)comm_->exchange(Outbox(ranks_), {"dispatch", 1, 0}));
}

TEST_P(CommunicatorConformance, TwoCommunicatorsDoNotMix) {
  const auto other = GetParam().make();
  const auto mine = bytes_of(rank_, 0, 0, 10), others = bytes_of(rank_, 1, 0, 20);
  for (int round = 0; round < 5; ++round) {
    const auto first = comm_->all_gather(mine, {"first"});
    const auto second = other->all_gather(others, {"second"});
    for (int r = 0; r < ranks_; ++r) {
      EXPECT_EQ(first[r], bytes_of(r, 0, 0, 10));
      EXPECT_EQ(second[r], bytes_of(r, 1, 0, 20));
    }
  }
}

TEST_P(CommunicatorConformance, AnOutboxForOtherRanksIsRefused) {
  EXPECT_THROW((void)comm_->exchange(Outbox(ranks_ + 1), {"dispatch"}), CommError);
}

TEST_P(CommunicatorConformance, NodesAreNumberedByTheirLowestRank) {
  const auto nodes = comm_->node_of_rank();
  ASSERT_EQ(nodes.size(), static_cast<std::size_t>(ranks_));
  int next = 0;
  for (const int node : nodes) {
    EXPECT_GE(node, 0);
    EXPECT_LE(node, next);
    next = std::max(next, node + 1);
  }
}

}  // namespace coterie
