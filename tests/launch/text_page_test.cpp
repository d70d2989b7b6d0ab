#include "launch/text_page.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

TEST(TextPage, WrapsFactsBehindTheirLabel) {
  TextPage page;
  page.fact("load", "one two");
  std::string words;
  for (int i = 0; i < 20; ++i) words += "word" + std::to_string(i) + " ";
  page.fact("long", words);
  EXPECT_EQ(page.text(),
            "load         one two\n"
            "long         word0 word1 word2 word3 word4 word5 word6 word7 word8 word9 word10\n"
            "             word11 word12 word13 word14 word15 word16 word17 word18 word19\n");
}

TEST(TextPage, NeverPartsAPercentSignFromItsNumber) {
  TextPage page;
  page.fact("x", std::string(62, 'a') + " 55.5 %");
  EXPECT_EQ(page.text(), "x            " + std::string(62, 'a') + "\n             55.5 %\n");
}

TEST(TextPage, AlignsColumnsByWhatTheScreenShows) {
  TextPage page;
  page.table({"a", "bc"}, {{"1", "→"}, {"100", "2"}});
  EXPECT_EQ(page.text(), "\n  a  bc\n  1   →\n100   2\n");
}

TEST(TextPage, KeepsALabelApartFromItsText) {
  TextPage page;
  page.fact("a-label-that-is-too-long", "text");
  EXPECT_EQ(page.text(), "a-label-that-is-too-long text\n");
}

TEST(TextPage, AComplaintNamesTheProgramOnce) {
  EXPECT_EQ(complaint("plan.json: format: found 3"), "coterie: plan.json: format: found 3\n");
  EXPECT_EQ(complaint("coterie plan: --ranks is missing"), "coterie plan: --ranks is missing\n");
  EXPECT_EQ(complaint("rank 1 is gone", "[rank 0] "), "coterie: [rank 0] rank 1 is gone\n");
  EXPECT_EQ(complaint("coterie generate: --seed\x07", "[rank 0] "), "[rank 0] coterie generate: --seed?\n");
}

TEST(TextPage, NothingInAFileCommandsTheTerminal) {
  TextPage page;
  page.fact("model", "a\x1b[31mred\x07 é");
  EXPECT_EQ(page.text(), "model        a?[31mred? é\n");
  EXPECT_EQ(printable("a\n\tb\x7f"), "a\n\tb?");
}

}  // namespace
}  // namespace coterie
