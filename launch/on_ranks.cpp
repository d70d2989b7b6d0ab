#include "launch/on_ranks.hpp"

#include "launch/command.hpp"
#include "launch/start_limit.hpp"
#include "launch/text_page.hpp"
#include "runtime/engine/agreement.hpp"

#include <algorithm>
#include <iostream>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

namespace coterie {

int on_ranks(std::chrono::duration<double> timeout, const std::function<int(MpiSession&)>& body) {
  constexpr std::chrono::seconds kLeastStart{60};
  int argc = 0;
  char** argv = nullptr;
  std::optional<StartLimit> limit(std::in_place, std::max<std::chrono::duration<double>>(timeout, kLeastStart));
  MpiSession session(argc, argv);
  limit.reset();
  const auto fail = [&](const std::exception& e, int code) {
    std::cerr << complaint(e.what(), "[rank " + std::to_string(session.rank()) + "] ") << std::flush;
    session.abort(code);
  };
  try {
    return body(session);
  } catch (const AgreedError& e) {
    if (session.rank() == 0) std::cerr << complaint(e.what());
    return kBadInput;
  } catch (const InputError& e) {
    fail(e, kBadInput);
  } catch (const std::bad_alloc&) {
    fail(std::runtime_error("not enough memory"), kFault);
  } catch (const std::exception& e) {
    fail(e, kFault);
  }
  return kFault;
}

}  // namespace coterie
