#include "comm/message_memory.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace coterie {
namespace {

TEST(MessageMemory, IsUsedAgainForMessagesOfAboutTheSameSize) {
  auto memory = take_message_memory(1'000'000);
  const std::byte* const first = memory.get();
  memory.reset();
  EXPECT_EQ(take_message_memory(1'000'100).get(), first);
}

/// Hands out heap memory and knows what it has not got back.
struct Ledger {
  std::set<std::byte*> out;
  std::uint64_t now = 0;

  MessageMemorySource source() {
    MessageMemorySource source;
    source.host = {[this](std::size_t bytes) {
                     auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, bytes));
                     out.insert(memory);
                     return memory;
                   },
                   [this](std::byte* memory) {
                     EXPECT_EQ(out.erase(memory), 1U) << "came from elsewhere";
                     std::free(memory);
                   }};
    source.now = [this] { return now; };
    source.is_done = [this](std::uint64_t when) { return when < now; };
    return source;
  }
};

TEST(MessageMemory, GoesBackWhereItCameFromWhateverTheSourceIsByThen) {
  MessageMemory before = take_message_memory(5'000);
  Ledger ledger;
  MessageMemory late;
  {
    const MessageMemoryFrom from(ledger.source());
    MessageMemory first = take_message_memory(100);
    const std::byte* const memory = first.get();
    late = take_message_memory(5'000);
    before.reset();
    ledger.now = 7;
    first.reset();
    ledger.now = 8;
    EXPECT_EQ(ledger.out.size(), 2U) << "kept for the next message";
    EXPECT_EQ(take_message_memory(100).get(), memory);
  }
  EXPECT_EQ(ledger.out.size(), 1U) << "what is kept goes back with the source";
  late.reset();
  EXPECT_TRUE(ledger.out.empty());
}

TEST(MessageMemory, IsNotUsedAgainWhileSomebodyReadsWhatItHeld) {
  Ledger ledger;
  const MessageMemoryFrom from(ledger.source());
  MessageMemory memory = take_message_memory(100);
  const std::byte* const first = memory.get();
  memory.reset();
  memory = take_message_memory(100);
  const std::byte* const second = memory.get();
  EXPECT_NE(second, first);
  ledger.now = 1;
  memory.reset();
  const MessageMemory again = take_message_memory(100);
  EXPECT_EQ(again.get(), first) << "the second may still be read";
  ledger.now = 2;
  memory = take_message_memory(100);
  EXPECT_EQ(memory.get(), second);
  EXPECT_EQ(ledger.out.size(), 2U);
}

TEST(MessageMemory, ForBulkIsApartWhereTheSourceSaysSo) {
  EXPECT_EQ(take_bulk_memory(100), nullptr);
  Ledger host, bulk;
  MessageMemorySource source = host.source();
  source.bulk = bulk.source().host;
  const MessageMemoryFrom from(source);
  const MessageMemory memory = take_bulk_memory(100);
  EXPECT_EQ(bulk.out.count(memory.get()), 1U);
  std::fill_n(memory.get(), kLeastBulk, std::byte{1});
  EXPECT_TRUE(host.out.empty());
}

TEST(MessageMemory, BlocksInUseDoNotOverlapWhateverTheirSizesAndThreads) {
  constexpr unsigned kSeed = 7;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  const auto churn = [](unsigned thread) {
    struct Block {
      MessageMemory memory;
      std::uint64_t bytes;
      std::byte fill;
    };
    std::mt19937 random(kSeed + thread);
    std::vector<Block> blocks;
    for (int i = 0; i < 500; ++i) {
      const std::uint64_t bytes = 1 + random() % (random() % 4 == 0 ? 400'000 : 3'000);
      blocks.push_back({take_message_memory(bytes), bytes, std::byte(random())});
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back().memory.get()) % 64, 0U);
      std::memset(blocks.back().memory.get(), std::to_integer<int>(blocks.back().fill), bytes);
      if (blocks.size() < 8) continue;
      std::swap(blocks[random() % blocks.size()], blocks.back());
      const Block& block = blocks.back();
      const std::byte* const memory = block.memory.get();
      EXPECT_TRUE(memory[0] == block.fill && memory[block.bytes / 2] == block.fill &&
                  memory[block.bytes - 1] == block.fill);
      blocks.pop_back();
    }
  };
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) threads.emplace_back(churn, t);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace coterie
