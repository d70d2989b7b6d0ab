#include "comm/note_carrier.hpp"

#include "comm/counting_communicator.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace coterie {
namespace {

class NoteCarrierTest : public testing::Test {
 protected:
  static std::vector<std::byte> note_of(int rank) { return {static_cast<std::size_t>(3 * rank), std::byte(rank)}; }

  void expect_notes_of_all(const std::vector<std::vector<std::byte>>& notes) const {
    ASSERT_EQ(notes.size(), static_cast<std::size_t>(comm_.ranks()));
    for (int r = 0; r < comm_.ranks(); ++r) EXPECT_EQ(notes[r], note_of(r)) << "rank " << r;
  }

  std::unique_ptr<Communicator> transport_ = make_mpi_communicator(test_session(), {});
  CountingCommunicator comm_{*transport_};
  NoteCarrier carrier_{comm_};
};

TEST_F(NoteCarrierTest, NotesRideInTheNextExchangeAndDisturbNothing) {
  carrier_.post(note_of(carrier_.rank()));
  Outbox outbox(carrier_.ranks());  // every second rank gets rows
  for (int to = 0; to < carrier_.ranks(); to += 2) {
    outbox[to] = Message(sizes_of({{Section::routes, 100}, {Bulk::rows, 70}}), 5);
    std::ranges::fill(outbox[to].section(Section::routes), std::byte(carrier_.rank()));
    std::ranges::fill(outbox[to].section(Bulk::rows).span(), std::byte(carrier_.rank()));
  }
  Inbox inbox = carrier_.exchange(std::move(outbox), {"dispatch", 0, 1});
  for (int from = 0; from < carrier_.ranks(); ++from) {
    const bool rows = carrier_.rank() % 2 == 0;
    EXPECT_EQ(inbox[from].flags(), rows ? 5U : 0U);
    const auto is_theirs = [&](std::byte b) { return b == std::byte(from); };
    EXPECT_EQ(inbox[from].section(Section::routes).size(), rows ? 100U : 0U);
    EXPECT_EQ(inbox[from].section(Bulk::rows).size(), rows ? 70U : 0U);
    EXPECT_TRUE(std::ranges::all_of(inbox[from].section(Section::routes), is_theirs));
    EXPECT_TRUE(std::ranges::all_of(inbox[from].section(Bulk::rows).span(), is_theirs));
  }
  expect_notes_of_all(carrier_.take({"notes"}));
  EXPECT_EQ(comm_.calls("exchange"), 1);
  EXPECT_EQ(comm_.calls("all_gather"), 0);
}

TEST_F(NoteCarrierTest, NotesThatNoExchangeCarriedAreGathered) {
  carrier_.post(note_of(carrier_.rank()));
  expect_notes_of_all(carrier_.take({"notes"}));
  EXPECT_EQ(comm_.calls("all_gather"), 1);
}

TEST_F(NoteCarrierTest, NotesWaitForAnExchangeOfAll) {
  carrier_.post(note_of(carrier_.rank()));
  const std::vector<int> alone{carrier_.rank()};
  (void)carrier_.exchange(Outbox(carrier_.ranks()), {"dispatch", 0, 1, "", alone});
  (void)carrier_.exchange(Outbox(carrier_.ranks()), {"dispatch", 1, 1});
  expect_notes_of_all(carrier_.take({"notes"}));
  EXPECT_EQ(comm_.calls("all_gather"), 0);
}

TEST_F(NoteCarrierTest, ANoteTravelsOnce) {
  carrier_.post(note_of(carrier_.rank()));
  (void)carrier_.exchange(Outbox(carrier_.ranks()), {"dispatch", 0, 1});
  const Inbox inbox = carrier_.exchange(Outbox(carrier_.ranks()), {"dispatch", 1, 1});
  for (const Message& message : inbox) EXPECT_TRUE(message.section(Section::note).empty());
  expect_notes_of_all(carrier_.take({"notes"}));
}

}  // namespace
}  // namespace coterie
