// What tests on several ranks share.
#pragma once

namespace coterie {

class MpiSession;

/// The session that main() started.
[[nodiscard]] MpiSession& test_session();

}  // namespace coterie
