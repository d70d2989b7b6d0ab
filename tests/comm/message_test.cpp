#include "comm/message.hpp"

#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <utility>

namespace coterie {
namespace {

TEST(Message, SectionsAreWhereTheirSizesSay) {
  Message message(sizes_of({{Section::routes, 7}, {Section::forms, 64}, {Bulk::freight, 1}}), 5);
  std::memset(message.section(Section::routes).data(), 1, 7);
  std::memset(message.section(Section::forms).data(), 2, 64);
  std::memset(message.section(Bulk::freight).address(), 3, 1);

  Message copy = Message::for_receiving(message.wire().size());
  std::memcpy(copy.wire().data(), message.wire().data(), message.wire().size());
  EXPECT_EQ(copy.flags(), 5U);
  EXPECT_EQ(copy.section(Section::routes).size(), 7U);
  EXPECT_EQ(copy.section(Bulk::rows).size(), 0U);
  EXPECT_EQ(copy.section(Section::forms)[63], std::byte{2});
  EXPECT_EQ(copy.section(Bulk::freight).size(), 1U);
  EXPECT_EQ(*copy.section(Bulk::freight).address(), std::byte{3});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(copy.section(Bulk::freight).address()) % 64, 0U);
}

TEST(Message, BulkApartStaysWhereItIs) {
  MessageMemorySource source;
  source.host = {[](std::size_t bytes) { return static_cast<std::byte*>(std::aligned_alloc(64, bytes)); },
                 [](std::byte* memory) { std::free(memory); }};
  source.bulk = source.host;
  const MessageMemoryFrom from(source);
  const SectionSizes sizes = sizes_of({{Section::routes, 100}, {Bulk::rows, 70}, {Bulk::weights, 5}});
  Message message(sizes, 3);
  EXPECT_FALSE(message.in_one_piece());
  EXPECT_EQ(message.head().size() + message.bulk().size(), wire_bytes(sizes));
  std::memset(message.section(Section::routes).data(), 1, 100);
  const std::byte* const rows = message.section(Bulk::rows).address();
  EXPECT_EQ(message.section(Bulk::weights).address(), rows + 128);

  const std::byte note[3] = {};
  Message noted = std::move(message).with_note(note);
  EXPECT_EQ(noted.flags(), 3U);
  EXPECT_EQ(noted.section(Section::note).size(), 3U);
  EXPECT_EQ(noted.section(Section::routes)[99], std::byte{1});
  EXPECT_EQ(noted.section(Bulk::rows).address(), rows);
  EXPECT_EQ(noted.bulk().size(), bulk_bytes(sizes));
}

TEST(Message, ADefaultMessageIsEmpty) {
  Message message;
  EXPECT_TRUE(message.wire().empty());
  EXPECT_TRUE(message.section(Bulk::weights).empty());
  EXPECT_EQ(message.flags(), 0U);
}

TEST(Message, BytesTooFewForAHeaderAreRefused) {
  const Message message(SectionSizes{100});
  EXPECT_EQ(header_of(message.wire()).sizes[0], 100U);
  EXPECT_THROW((void)header_of(message.wire().first(40)), CommError);
}

}  // namespace
}  // namespace coterie
