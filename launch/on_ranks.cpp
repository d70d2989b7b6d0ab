#include "launch/on_ranks.hpp"

#include "launch/command.hpp"
#include "launch/text_page.hpp"
#include "runtime/engine/agreement.hpp"

#include <iostream>
#include <new>
#include <stdexcept>
#include <string>

namespace coterie {

int on_ranks(const std::function<int(MpiSession&)>& body) {
  int argc = 0;
  char** argv = nullptr;
  MpiSession session(argc, argv);
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
