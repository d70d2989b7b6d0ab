#include "runtime/experts/row_records.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

/// Rows [first, first + count) of the batch, each with all of its choices but the last.
RowsFor rows_from(std::int32_t first, std::int32_t count, int top_k) {
  RowsFor rows;
  for (std::int32_t row = first; row < first + count; ++row) {
    rows.tags.push_back({row, row % 3 - 1});
    for (int j = 0; j < top_k; ++j) {
      const bool none = top_k > 1 && j == top_k - 1;
      rows.routes.push_back(none ? Route{}
                                 : Route{row + j, 0.5F * static_cast<float>(j), 2, static_cast<std::int16_t>(j)});
    }
  }
  return rows;
}

TEST(RowRecords, ComeBackAsTheyWereWritten) {
  for (const int top_k : {1, 2, 8}) {
    std::vector<Route> routes, expected;
    for (const std::int32_t count : {3, 0, 5}) {
      const RowsFor rows = rows_from(10 * count, count, top_k);
      std::vector<std::byte> bytes(record_bytes(rows));
      write_records(rows, bytes);
      const std::vector<RowTag> tags = tags_of(bytes, top_k);
      ASSERT_EQ(tags.size(), rows.tags.size());
      for (std::size_t i = 0; i < tags.size(); ++i) {
        EXPECT_EQ(tags[i].row, rows.tags[i].row);
        EXPECT_EQ(tags[i].landing, rows.tags[i].landing);
      }
      append_routes(bytes, top_k, routes);
      expected.insert(expected.end(), rows.routes.begin(), rows.routes.end());
    }
    ASSERT_EQ(routes.size(), expected.size());
    for (std::size_t i = 0; i < routes.size(); ++i) {
      EXPECT_EQ(routes[i].expert, expected[i].expert);
      EXPECT_EQ(routes[i].weight, expected[i].weight);
      EXPECT_EQ(routes[i].owner, expected[i].owner);
      EXPECT_EQ(routes[i].place, expected[i].place);
    }
  }
}

}  // namespace
}  // namespace coterie
