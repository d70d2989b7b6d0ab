// The Python program that renders chat templates (runtime/requests/render_chat.py), as text.
#pragma once

#include <string_view>

namespace coterie {

extern const std::string_view kRenderChat;

}  // namespace coterie
