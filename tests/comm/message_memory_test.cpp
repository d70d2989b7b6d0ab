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
  std::byte* first = take_message_memory(1'000'000);
  give_message_memory(first, 1'000'000);
  std::byte* second = take_message_memory(1'000'100);
  EXPECT_EQ(first, second);
  give_message_memory(second, 1'000'100);
}

/// Hands out heap memory and knows what it has not got back.
struct Ledger {
  std::set<std::byte*> out;
  std::uint64_t now = 0;

  MessageMemorySource source() {
    return {[this](std::size_t bytes) {
              auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, bytes));
              out.insert(memory);
              return memory;
            },
            [this](std::byte* memory) {
              EXPECT_EQ(out.erase(memory), 1U) << "came from elsewhere";
              std::free(memory);
            },
            0, [this] { return now; }, [this](std::uint64_t when) { return when < now; }};
  }
};

TEST(MessageMemory, GoesBackWhereItCameFromWhateverTheSourceIsByThen) {
  std::byte* before = take_message_memory(5'000);
  Ledger ledger;
  std::byte *kept = nullptr, *late = nullptr;
  {
    const MessageMemoryFrom from(ledger.source());
    std::byte* first = take_message_memory(100);
    late = take_message_memory(5'000);
    give_message_memory(before, 5'000);
    ledger.now = 7;
    give_message_memory(first, 100);
    ledger.now = 8;
    EXPECT_EQ(ledger.out.size(), 2U) << "kept for the next message";
    kept = take_message_memory(100);
    EXPECT_EQ(kept, first);
    give_message_memory(kept, 100);
  }
  EXPECT_EQ(ledger.out.size(), 1U) << "only what a message still uses";
  give_message_memory(late, 5'000);
  EXPECT_TRUE(ledger.out.empty());
}

TEST(MessageMemory, IsNotUsedAgainWhileSomebodyReadsWhatItHeld) {
  Ledger ledger;
  const MessageMemoryFrom from(ledger.source());
  std::byte* first = take_message_memory(100);
  give_message_memory(first, 100);
  std::byte* second = take_message_memory(100);
  EXPECT_NE(second, first);
  ledger.now = 1;
  give_message_memory(second, 100);
  EXPECT_EQ(take_message_memory(100), first) << "the second may still be read";
  ledger.now = 2;
  EXPECT_EQ(take_message_memory(100), second);
  EXPECT_EQ(ledger.out.size(), 2U);
  for (std::byte* memory : {first, second}) give_message_memory(memory, 100);
}

TEST(MessageMemory, BlocksInUseDoNotOverlapWhateverTheirSizesAndThreads) {
  constexpr unsigned kSeed = 7;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  const auto churn = [](unsigned thread) {
    struct Block {
      std::byte* memory;
      std::uint64_t bytes;
      std::byte fill;
    };
    std::mt19937 random(kSeed + thread);
    std::vector<Block> blocks;
    for (int i = 0; i < 500; ++i) {
      const std::uint64_t bytes = 1 + random() % (random() % 4 == 0 ? 400'000 : 3'000);
      blocks.push_back({take_message_memory(bytes), bytes, std::byte(random())});
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back().memory) % 64, 0U);
      std::memset(blocks.back().memory, std::to_integer<int>(blocks.back().fill), bytes);
      if (blocks.size() < 8) continue;
      std::swap(blocks[random() % blocks.size()], blocks.back());
      const Block block = blocks.back();
      blocks.pop_back();
      EXPECT_TRUE(block.memory[0] == block.fill && block.memory[block.bytes / 2] == block.fill &&
                  block.memory[block.bytes - 1] == block.fill);
      give_message_memory(block.memory, block.bytes);
    }
    for (const Block& block : blocks) give_message_memory(block.memory, block.bytes);
  };
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) threads.emplace_back(churn, t);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace coterie
