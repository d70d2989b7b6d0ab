#include "runtime/requests/result_line.hpp"

#include "runtime/requests/sampler.hpp"
#include "runtime/text/text_decoder.hpp"
#include "runtime/text/utf8.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <variant>

namespace coterie {
namespace {

using Json = nlohmann::ordered_json;

std::string hex_id(const char* prefix, std::string_view text) {
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(request_key(text)));
  return std::string(prefix) + digits.data();
}

/// The double whose shortest spelling is the float's. JSON has no infinity; OpenAI's servers say -9999 for it.
double number(float logprob) {
  if (!std::isfinite(logprob)) return -9999;
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), logprob).ptr;
  double value = 0;
  std::from_chars(text.data(), end, value);
  return value;
}

std::string token_name(const Tokenizer* tokenizer, std::int32_t id) {
  if (tokenizer != nullptr) {
    const Tokenizer::Piece& piece = tokenizer->piece(id);
    if (piece.kind == Tokenizer::PieceKind::byte && !is_valid(piece.text)) {
      std::string name = "bytes:";
      for (const char byte : piece.text) {
        std::array<char, 8> text{};
        std::snprintf(text.data(), text.size(), "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
        name += text.data();
      }
      return name;
    }
    if (!piece.text.empty()) return piece.text;
  }
  return "token_id:" + std::to_string(id);
}

/// Fills the four arrays of `logprobs`, token by token.
class LogprobsWriter {
 public:
  LogprobsWriter(const Tokenizer* tokenizer, bool skip_special_tokens, std::size_t text_characters)
      : tokenizer_(tokenizer), text_characters_(text_characters) {
    if (tokenizer != nullptr) decoder_.emplace(*tokenizer, skip_special_tokens);
  }

  /// A token of the context that is not reported.
  void pass(std::int32_t token) {
    if (decoder_) static_cast<void>(decoder_->add(token));
  }

  /// What follows is the continuation; `reported` where the prompt's text stands before it.
  void end_prompt(bool reported) {
    if (!decoder_) return;
    const std::size_t settled = count_characters(decoder_->settle());
    if (reported) certain_ += settled;
  }

  /// `logprobs` null: the first token of a prompt, which nothing predicts.
  void add(std::int32_t token, const Logprobs* logprobs) {
    tokens_.push_back(token_name(tokenizer_, token));
    if (decoder_) {
      offsets_.push_back(std::min(certain_ + count_characters(decoder_->pending()), text_characters_));
      certain_ += count_characters(decoder_->add(token));
    } else {
      offsets_.push_back(0);
    }
    if (logprobs == nullptr) {
      chosen_.push_back(nullptr);
      top_.push_back(nullptr);
      return;
    }
    chosen_.push_back(number(logprobs->chosen));
    Json top = Json::object();
    // Where two tokens have one name (a byte and a piece of the same character), the likelier one has it.
    for (const auto& [id, logprob] : logprobs->top) top.emplace(token_name(tokenizer_, id), number(logprob));
    if (!logprobs->top.empty()) top.emplace(tokens_.back().get<std::string>(), number(logprobs->chosen));
    top_.push_back(std::move(top));
  }

  [[nodiscard]] Json take() && {
    return {{"tokens", std::move(tokens_)},
            {"token_logprobs", std::move(chosen_)},
            {"top_logprobs", std::move(top_)},
            {"text_offset", std::move(offsets_)}};
  }

 private:
  const Tokenizer* tokenizer_;
  std::size_t text_characters_;
  std::optional<TextDecoder> decoder_;
  std::size_t certain_ = 0;  // characters
  Json tokens_ = Json::array(), chosen_ = Json::array(), top_ = Json::array(), offsets_ = Json::array();
};

std::string echoed_prompt(const Request& request, const Tokenizer* tokenizer) {
  if (!request.prompt_text.empty() || tokenizer == nullptr) return request.prompt_text;
  TextDecoder decoder(*tokenizer, request.skip_special_tokens);
  std::string text;
  for (const std::int32_t token : request.prompt) text += decoder.add(token);
  return text + decoder.settle();  // a character that the prompt leaves unfinished belongs to the continuation
}

Json logprobs_of(const Completion& c, const Tokenizer* tokenizer, const std::string& text) {
  const Request& r = c.request;
  if (r.sampling.logprobs < 0) return nullptr;
  LogprobsWriter writer(tokenizer, r.skip_special_tokens, count_characters(text));
  for (std::size_t i = 0; i < r.prompt.size(); ++i) {
    if (r.echo) {
      writer.add(r.prompt[i], i == 0 ? nullptr : &c.prompt_logprobs.at(i - 1));
    } else {
      writer.pass(r.prompt[i]);
    }
  }
  writer.end_prompt(r.echo);
  for (std::size_t i = 0; i < c.tokens.size(); ++i) writer.add(c.tokens[i], &c.logprobs.at(i));
  return std::move(writer).take();
}

/// A token as a chat reports it. Its bytes are null where it has no text.
Json chat_token(const Tokenizer* tokenizer, std::int32_t id, float logprob) {
  Json bytes = nullptr;
  if (tokenizer != nullptr && tokenizer->piece(id).kind != Tokenizer::PieceKind::control) {
    bytes = Json::array();
    for (const char c : tokenizer->piece(id).text) bytes.push_back(static_cast<unsigned char>(c));
  }
  return {{"token", token_name(tokenizer, id)}, {"logprob", number(logprob)}, {"bytes", std::move(bytes)}};
}

Json chat_logprobs_of(const Completion& c, const Tokenizer* tokenizer) {
  if (c.request.sampling.logprobs < 0) return nullptr;
  Json content = Json::array();
  for (std::size_t i = 0; i < c.tokens.size(); ++i) {
    Json token = chat_token(tokenizer, c.tokens[i], c.logprobs.at(i).chosen);
    token["top_logprobs"] = Json::array();
    for (const auto& [id, logprob] : c.logprobs.at(i).top) {
      token["top_logprobs"].push_back(chat_token(tokenizer, id, logprob));
    }
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}};
}

Json stop_reason_of(const Completion& c) {
  if (const auto* token = std::get_if<std::int32_t>(&c.stop_reason)) return *token;
  if (const auto* text = std::get_if<std::string>(&c.stop_reason)) return *text;
  return nullptr;
}

std::string dump(const Json& line) {
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string completion_line(const Completion& completion, const Tokenizer* tokenizer, std::string_view model) {
  const Request& request = completion.request;
  Json choice = {{"index", 0}};
  if (request.chat) {
    choice["message"] = {{"role", "assistant"}, {"content", completion.text}};
    choice["logprobs"] = chat_logprobs_of(completion, tokenizer);
  } else {
    const std::string text = (request.echo ? echoed_prompt(request, tokenizer) : "") + completion.text;
    choice["text"] = text;
    choice["logprobs"] = logprobs_of(completion, tokenizer, text);
  }
  choice["finish_reason"] = completion.finish_reason == FinishReason::stop ? "stop" : "length";
  choice["stop_reason"] = stop_reason_of(completion);
  if (request.return_token_ids || tokenizer == nullptr) {
    choice["token_ids"] = completion.tokens;
    choice["prompt_token_ids"] = request.prompt;
  }
  const std::size_t prompt = request.prompt.size(), generated = completion.tokens.size();
  Json body = {
      {"id", hex_id(request.chat ? "chatcmpl-" : "cmpl-", request.custom_id)},
      {"object", request.chat ? "chat.completion" : "text_completion"},
      {"created", 0},
      {"model", model},
      {"choices", Json::array({std::move(choice)})},
      {"usage", {{"prompt_tokens", prompt}, {"completion_tokens", generated}, {"total_tokens", prompt + generated}}}};
  const Json response = {
      {"status_code", 200}, {"request_id", hex_id("req_", request.custom_id)}, {"body", std::move(body)}};
  return dump({{"id", hex_id("batch_req_", request.custom_id)},
               {"custom_id", request.custom_id},
               {"response", response},
               {"error", nullptr}});
}

std::string error_line(const RequestError& error) {
  const Json custom_id = error.custom_id.empty() ? Json(nullptr) : Json(error.custom_id);
  return dump({{"id", hex_id("batch_req_", "line " + std::to_string(error.line) + " " + error.custom_id)},
               {"custom_id", custom_id},
               {"response", nullptr},
               {"error", {{"code", error.code}, {"message", error.message}, {"line", error.line}}}});
}

}  // namespace coterie
