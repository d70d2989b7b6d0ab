#include "comm/roll_call.hpp"

#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace coterie {
namespace {

const Stamp kHere(Stamp::Kind::exchange, {"dispatch", 3, 17});
const Stamp kBefore(Stamp::Kind::exchange, {"combine", 2, 17});

TEST(TimeOutText, NamesWhoDidNotArriveAndWhereEachStands) {
  const std::vector<Straggler> stragglers{{1, false, kBefore, {}},
                                          {2, false, kBefore, "combine at layer 2, step 17, waiting for rank 1"}};
  EXPECT_EQ(
      time_out_text(std::chrono::seconds(300), kHere, stragglers),
      "timed out after 300 s at dispatch at layer 3, step 17: ranks 1 and 2 did not arrive; rank 1 does not answer, "
      "it was last seen at combine at layer 2, step 17; rank 2 stands at combine at layer 2, step 17, waiting for "
      "rank 1");
}

TEST(TimeOutText, TellsARankThatNeverCameFromOneThatStoppedMidway) {
  const std::vector<Straggler> stragglers{{4, false, {}, {}}, {6, true, kHere, {}}};
  EXPECT_EQ(time_out_text(std::chrono::milliseconds(500), kHere, stragglers),
            "timed out after 0.5 s at dispatch at layer 3, step 17: rank 4 did not arrive; rank 6 arrived but did not "
            "finish; rank 4 does not answer, it was last seen at the start; rank 6 does not answer");
}

TEST(TimeOutText, StaysShortWithManyRanks) {
  std::vector<Straggler> stragglers(1000);
  for (int r = 0; r < 1000; ++r) stragglers[r].rank = r;
  const std::string text = time_out_text(std::chrono::seconds(1), kHere, stragglers);
  EXPECT_NE(text.find("ranks 0, 1, 2, 3, 4, 5, 6, 7 and 992 more did not arrive"), std::string::npos) << text;
  EXPECT_LT(text.size(), 800U);
}

TEST(Place, ReadsAsWords) {
  EXPECT_EQ(to_string(Place{"dispatch", 3, 17}), "dispatch at layer 3, step 17");
  EXPECT_EQ(to_string(Place{"step report", -1, 17}), "step report at step 17");
  EXPECT_EQ(to_string(Place{"weights", 3, -1}), "weights at layer 3");
  EXPECT_EQ(to_string(Place{"digests"}), "digests");
}

TEST(Stamp, TellsKindsLayersStepsAndNamesApart) {
  EXPECT_EQ(kHere, Stamp(Stamp::Kind::exchange, {"dispatch", 3, 17}));
  EXPECT_NE(kHere, Stamp(Stamp::Kind::all_gather, {"dispatch", 3, 17}));
  EXPECT_NE(kHere, Stamp(Stamp::Kind::exchange, {"dispatch", 4, 17}));
  EXPECT_NE(kHere, Stamp(Stamp::Kind::exchange, {"dispatch", 3, 18}));
  EXPECT_NE(kHere, Stamp(Stamp::Kind::exchange, {"combine", 3, 17}));
}

}  // namespace
}  // namespace coterie
