#include "runtime/requests/chat_request.hpp"

#include <array>
#include <string_view>

namespace coterie {
namespace {

using Json = nlohmann::json;

std::string element(const std::string& list, std::size_t index) {
  return list + "[" + std::to_string(index) + "]";
}

const Json* find(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

void check_objects(const Json& list, const std::string& field) {
  if (!list.is_array()) throw wrong_value(field, shown(list), "a list of objects");
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) throw wrong_value(element(field, i), shown(list[i]), "an object");
  }
}

void check_part(const Json& part, const std::string& field) {
  if (!part.is_object()) throw wrong_value(field, shown(part), R"({"type": "text", "text": ...})");
  const Json* type = find(part, "type");
  if (type == nullptr) throw missing_value(field + ".type", R"("text")");
  if (*type != "text") {
    throw WrongRequest{"unsupported_parameter",
                       field + ".type: found " + shown(*type) + ", expected \"text\": others are not supported"};
  }
  const Json* text = find(part, "text");
  if (text == nullptr) throw missing_value(field + ".text", "a text");
  if (!text->is_string()) throw wrong_value(field + ".text", shown(*text), "a text");
}

void check_message(const Json& message, const std::string& field) {
  static constexpr std::array<std::string_view, 5> kRoles{"system", "developer", "user", "assistant", "tool"};
  static constexpr const char* kExpected = R"("system", "developer", "user", "assistant" or "tool")";
  const Json* role = find(message, "role");
  if (role == nullptr) throw missing_value(field + ".role", kExpected);
  bool known = false;
  for (const std::string_view name : kRoles) known = known || *role == name;
  if (!known) throw wrong_value(field + ".role", shown(*role), kExpected);

  const Json* calls = find(message, "tool_calls");
  if (calls != nullptr) check_objects(*calls, field + ".tool_calls");
  const Json* content = find(message, "content");
  if (content == nullptr) {
    if (*role != "assistant") throw missing_value(field + ".content", "a text or a list of texts");
  } else if (content->is_array()) {
    for (std::size_t i = 0; i < content->size(); ++i) check_part((*content)[i], element(field + ".content", i));
  } else if (!content->is_string()) {
    throw wrong_value(field + ".content", shown(*content), "a text or a list of texts");
  }
}

void check_messages(RequestFields& body) {
  const std::string field = body.path("messages");
  const auto messages = body.take("messages");
  if (!messages) throw missing_value(field, "a list of messages");
  check_objects(*messages, field);
  if (messages->empty()) throw wrong_value(field, "no messages", "at least one");
  for (std::size_t i = 0; i < messages->size(); ++i) check_message((*messages)[i], element(field, i));
}

void check_tools(RequestFields& body) {
  if (const auto tools = body.take("tools")) check_objects(*tools, body.path("tools"));
  const auto choice = body.take("tool_choice");
  if (choice && *choice != "auto" && *choice != "none") {
    throw WrongRequest{"unsupported_parameter", body.path("tool_choice") + ": found " + shown(*choice) +
                                                    R"(, expected "auto" or "none": others are not supported)"};
  }
}

void check_template_arguments(RequestFields& body) {
  const std::string field = body.path("chat_template_kwargs");
  const auto arguments = body.take("chat_template_kwargs");
  if (!arguments) return;
  if (!arguments->is_object()) throw wrong_value(field, shown(*arguments), "an object");
  for (const char* own : {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}) {
    if (arguments->contains(own)) {
      throw wrong_value(field + "." + own, shown((*arguments)[own]), "it beside chat_template_kwargs, not in it");
    }
  }
}

}  // namespace

void check_chat(RequestFields& body) {
  check_messages(body);
  check_tools(body);
  if (const auto documents = body.take("documents")) check_objects(*documents, body.path("documents"));
  check_template_arguments(body);
  if (const auto effort = body.take("reasoning_effort"); effort && !effort->is_string()) {
    throw wrong_value(body.path("reasoning_effort"), shown(*effort), "a text");
  }
  const bool go_on = body.flag("continue_final_message", false);
  if (body.flag("add_generation_prompt", false) && go_on) {
    throw wrong_value(body.path("add_generation_prompt"), "true", "false with continue_final_message");
  }
}

}  // namespace coterie
