#include "runtime/requests/request.hpp"

#include "comm/bytes.hpp"

namespace coterie {
namespace {

/// The one list of what travels, for both directions.
template <typename Visitor, typename AnyRequest>
void visit(Visitor&& on, AnyRequest& r) {
  on(r.custom_id);
  on(r.chat);
  on(r.line);
  on(r.prompt);
  on(r.prompt_text);
  on(r.max_tokens);
  on(r.sampling);
  on(r.stop);
  on(r.stop_token_ids);
  on(r.ignore_eos);
  on(r.echo);
  on(r.return_token_ids);
  on(r.include_stop_str_in_output);
  on(r.skip_special_tokens);
}

}  // namespace

void append(std::vector<std::byte>& message, const Request& request) {
  visit(ByteWriter{message}, request);
}

Request take_request(std::span<const std::byte>& message) {
  Request request;
  visit(ByteReader{message}, request);
  return request;
}

}  // namespace coterie
