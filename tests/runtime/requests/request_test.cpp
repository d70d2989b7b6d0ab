#include "runtime/requests/request.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

namespace coterie {
namespace {

Request full_request() {
  Request r;
  r.custom_id = "id-1";
  r.line = 1'234'567'890'123;
  r.prompt = {1, 2, 70'000};
  r.prompt_text = "hällo";
  r.max_tokens = 77;
  r.sampling = {0.5F, 40, 0.9F, UINT64_MAX, 5};
  r.stop = {"\n\n", "END"};
  r.stop_token_ids = {9};
  r.ignore_eos = true;
  r.return_token_ids = true;
  r.skip_special_tokens = false;
  return r;
}

void expect_equal(const Request& a, const Request& b) {
  EXPECT_EQ(a.custom_id, b.custom_id);
  EXPECT_EQ(a.line, b.line);
  EXPECT_EQ(a.prompt, b.prompt);
  EXPECT_EQ(a.prompt_text, b.prompt_text);
  EXPECT_EQ(a.max_tokens, b.max_tokens);
  EXPECT_EQ(a.sampling.temperature, b.sampling.temperature);
  EXPECT_EQ(a.sampling.top_k, b.sampling.top_k);
  EXPECT_EQ(a.sampling.top_p, b.sampling.top_p);
  EXPECT_EQ(a.sampling.seed, b.sampling.seed);
  EXPECT_EQ(a.sampling.logprobs, b.sampling.logprobs);
  EXPECT_EQ(a.stop, b.stop);
  EXPECT_EQ(a.stop_token_ids, b.stop_token_ids);
  EXPECT_EQ(a.ignore_eos, b.ignore_eos);
  EXPECT_EQ(a.echo, b.echo);
  EXPECT_EQ(a.return_token_ids, b.return_token_ids);
  EXPECT_EQ(a.include_stop_str_in_output, b.include_stop_str_in_output);
  EXPECT_EQ(a.skip_special_tokens, b.skip_special_tokens);
}

TEST(Request, SeveralTravelInOneMessage) {
  std::vector<std::byte> message;
  append(message, full_request());
  append(message, Request{});
  append(message, full_request());
  std::span<const std::byte> rest = message;
  expect_equal(take_request(rest), full_request());
  expect_equal(take_request(rest), Request{});
  expect_equal(take_request(rest), full_request());
  EXPECT_TRUE(rest.empty());
}

TEST(Request, AMessageCutAnywhereIsAnError) {
  std::vector<std::byte> message;
  append(message, full_request());
  for (std::size_t size = 0; size < message.size(); ++size) {
    std::span<const std::byte> rest = std::span<const std::byte>(message).first(size);
    EXPECT_THROW(static_cast<void>(take_request(rest)), std::runtime_error) << size;
  }
}

}  // namespace
}  // namespace coterie
