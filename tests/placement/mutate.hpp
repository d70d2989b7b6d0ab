// Damaged copies of a good file: what a reader of outside input must refuse or read, never crash on.
#pragma once

#include "placement/input_error.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>

#include <random>

namespace coterie {

/// Calls `read` on every prefix of `good` and on `count` random mutations of it. Each must be read or refused by an
/// InputError; prefixes must be refused when `prefixes_fail`.
template <class Read>
void expect_no_damage_crashes(const std::string& good, const std::string& name, bool prefixes_fail, int count,
                              Read read) {
  const ScratchFolder folder;
  const auto path = folder / name;
  const auto accepted = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    try {
      read(path);
      return true;
    } catch (const InputError& e) {
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << "does not name the file: " << e.what();
      return false;
    }
  };
  ASSERT_TRUE(accepted(good));
  for (std::size_t n = 0; n < good.size(); ++n) {
    const bool ok = accepted(good.substr(0, n));
    EXPECT_FALSE(ok && prefixes_fail) << "the first " << n << " of " << good.size() << " bytes were accepted";
  }
  std::mt19937 random(20);
  const std::string bytes = "0123456789-\"{}[],:.eE \n\\truefalsn\xff";
  const std::vector<std::string> pieces{
      "-1",      "99999999999999999999", "1e400", "null", "[]", "{}", "\"x\"", "", "256", "65535", "0", "[[", "NaN",
      "\xff\xff"};
  const auto at = [&](const std::string& text) { return random() % (text.size() + 1); };
  for (int i = 0; i < count; ++i) {
    std::string bad = good;
    for (std::size_t edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t where = at(bad);
      switch (random() % 4) {
        case 0:
          bad.insert(where, 1, bytes[random() % bytes.size()]);
          break;
        case 1:
          bad.erase(where, random() % 8);
          break;
        case 2:
          bad.replace(where, random() % 4, pieces[random() % pieces.size()]);
          break;
        default:
          if (where < bad.size()) bad[where] = static_cast<char>(random());
      }
    }
    accepted(bad);
  }
}

}  // namespace coterie
