// Chat requests to prompts, through the model's own template.
#pragma once

#include "runtime/requests/helper_process.hpp"
#include "runtime/text/tokenizer.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

/// A rendered conversation. Special tokens in it are to be obeyed, but for those that would extend across a border:
/// they come from the request's own strings.
struct ChatPrompt {
  std::string text;
  std::vector<std::size_t> borders;  ///< byte offsets in `text`, rising
};

struct ChatRendererOptions {
  /// Programs to try. A Python of the user's own, such as a virtual environment's, often lacks what Debian's has.
  std::vector<std::string> pythons{"python3", "/usr/bin/python3"};
  int seconds = 5;                              ///< of processor time that a request may take
  std::int64_t memory = std::int64_t{1} << 30;  ///< bytes
  std::chrono::seconds patience{60};            ///< for an answer, on a machine that is busy
};

/// Renders with Jinja, as HF transformers does, in one Python process that is started for the first request. Templates
/// run in a sandbox, for a few seconds at most. A process that ends is started again for the next request; after three
/// such ends, or requests that took too long, no more are tried.
class ChatRenderer {
 public:
  /// `tokenizer` must outlive this object. Nothing is read or started yet.
  ChatRenderer(std::filesystem::path model, const Tokenizer& tokenizer, ChatRendererOptions options = {});

  /// `line` is a request line whose fields were found right (chat_request.hpp). Throws InputError (template's file,
  /// line, what is wrong, or what is missing to render at all).
  [[nodiscard]] ChatPrompt render(std::string_view line);

 private:
  void start();
  [[nodiscard]] std::string job() const;
  /// Counts towards the end of all tries.
  void fail(const std::string& what);

  std::filesystem::path model_;
  const Tokenizer& tokenizer_;
  ChatRendererOptions options_;
  std::unique_ptr<HelperProcess> helper_;
  int failures_ = 0;
  std::string refusal_;  ///< of every further request, when not empty
};

}  // namespace coterie
