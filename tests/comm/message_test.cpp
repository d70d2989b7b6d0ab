#include "comm/message.hpp"

#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace coterie {
namespace {

TEST(Message, SectionsAreWhereTheirSizesSay) {
  Message message(SectionSizes{7, 0, 64, 1, 0}, 5);
  std::memset(message.section(Section::rows).data(), 1, 7);
  std::memset(message.section(Section::partial_sums).data(), 2, 64);
  std::memset(message.section(Section::freight).data(), 3, 1);

  Message copy = Message::for_receiving(message.wire().size());
  std::memcpy(copy.wire().data(), message.wire().data(), message.wire().size());
  EXPECT_EQ(copy.flags(), 5U);
  EXPECT_EQ(copy.section(Section::rows).size(), 7U);
  EXPECT_EQ(copy.section(Section::routes).size(), 0U);
  EXPECT_EQ(copy.section(Section::partial_sums)[63], std::byte{2});
  EXPECT_EQ(copy.section(Section::freight)[0], std::byte{3});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(copy.section(Section::freight).data()) % 64, 0U);
}

TEST(Message, ADefaultMessageIsEmpty) {
  const Message message;
  EXPECT_TRUE(message.wire().empty());
  EXPECT_TRUE(message.section(Section::weights).empty());
  EXPECT_EQ(message.flags(), 0U);
}

TEST(Message, BytesTooFewForAHeaderAreRefused) {
  const Message message(SectionSizes{100, 0, 0, 0, 0});
  EXPECT_EQ(header_of(message.wire()).sizes[0], 100U);
  EXPECT_THROW((void)header_of(message.wire().first(40)), CommError);
}

}  // namespace
}  // namespace coterie
