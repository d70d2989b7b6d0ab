#include "runtime/requests/chat_renderer.hpp"

#include "placement/input_error.hpp"
#include "runtime/requests/chat_template.hpp"
#include "runtime/requests/render_chat.hpp"

#include <nlohmann/json.hpp>

#include <optional>
#include <utility>

namespace coterie {
namespace {

using Json = nlohmann::json;

constexpr int kMostFailures = 3;

}  // namespace

ChatRenderer::ChatRenderer(std::filesystem::path model, const Tokenizer& tokenizer, ChatRendererOptions options)
    : model_(std::move(model)), tokenizer_(tokenizer), options_(std::move(options)) {}

std::string ChatRenderer::job() const {
  const ChatTemplates templates = read_chat_templates(model_);
  Json names = Json::array();
  for (std::int32_t id = 0; id < tokenizer_.vocabulary(); ++id) {
    const Tokenizer::Piece& piece = tokenizer_.piece(id);
    if (piece.kind == Tokenizer::PieceKind::control && !piece.text.empty()) names.push_back(piece.text);
  }
  Json job = {{"tokens", templates.tokens},
              {"special_tokens", names},
              {"seconds", options_.seconds},
              {"bytes", options_.memory}};
  if (templates.tokens.empty()) {  // a folder whose sentencepiece model alone names them
    const auto add = [&](const char* name, std::optional<std::int32_t> id) {
      if (id) job["tokens"][name] = tokenizer_.piece(*id).text;
    };
    add("bos_token", tokenizer_.begin_of_sequence());
    add("eos_token", tokenizer_.end_of_sequence());
  }
  for (const auto& [name, source] : templates.by_name) {
    job["templates"][name] = {{"file", source.file}, {"text", source.text}};
  }
  return job.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void ChatRenderer::start() {
  std::string tried;
  const std::string first = job();
  for (const std::string& python : options_.pythons) {
    try {
      auto helper = std::make_unique<HelperProcess>(std::vector<std::string>{python, "-c", std::string(kRenderChat)});
      const Json answer = Json::parse(helper->ask(first, options_.patience));
      if (answer.contains("ready")) {
        helper_ = std::move(helper);
        return;
      }
      tried += "; " + answer.at("error").get<std::string>();
    } catch (const HelperError& e) {
      tried += "; " + python + ": " + e.what();
    }
  }
  throw InputError("chat requests need Python 3 with Jinja: install the package python3-jinja2 (or pip's jinja2)" +
                   tried);
}

void ChatRenderer::fail(const std::string& what) {
  if (++failures_ >= kMostFailures)
    refusal_ = what + "; this happened " + std::to_string(kMostFailures) + " times, no more are tried";
}

ChatPrompt ChatRenderer::render(std::string_view line) {
  if (!refusal_.empty()) throw InputError(refusal_);
  if (helper_ == nullptr) {
    try {
      start();
    } catch (const InputError& e) {
      refusal_ = e.what();  // another request would meet the same
      throw;
    }
  }
  Json answer;
  try {
    answer = Json::parse(helper_->ask(line, options_.patience));
  } catch (const HelperError& e) {
    helper_.reset();
    const std::string what = model_.string() + ": chat template: the process that renders it can't go on: " + e.what();
    fail(what);
    throw InputError(what);
  }
  if (!answer.contains("error")) {
    return {answer.at("text").get<std::string>(), answer.at("borders").get<std::vector<std::size_t>>()};
  }
  const std::string what = answer.at("error").get<std::string>();
  if (answer.value("slow", false)) fail(what);
  throw InputError(what);
}

}  // namespace coterie
