// The fields of a chat request that its model's template reads: messages, tools, documents.
#pragma once

#include "runtime/requests/request_fields.hpp"

namespace coterie {

/// Takes `messages`, `tools`, `tool_choice`, `documents`, `chat_template_kwargs`, `add_generation_prompt`,
/// `continue_final_message` and `reasoning_effort` from the body of a chat request and throws WrongRequest where one of
/// them is not what a template can be given. Their values go to the template as the line has them, in its order.
void check_chat(RequestFields& body);

}  // namespace coterie
