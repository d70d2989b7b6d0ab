// What tests on several ranks share.
#pragma once

namespace coterie {

class MpiSession;

/// The session that main() started.
[[nodiscard]] MpiSession& test_session();

/// Whether `mine` holds on every rank. Collective; ask it before a GTEST_SKIP, so that all ranks skip or none.
[[nodiscard]] bool on_all_ranks(bool mine);

}  // namespace coterie
