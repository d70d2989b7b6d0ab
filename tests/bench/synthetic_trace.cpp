#include "tests/bench/synthetic_trace.hpp"

#include "placement/files/half.hpp"
#include "placement/files/safetensors.hpp"
#include "placement/splitmix.hpp"
#include "placement/trace/trace_header.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace coterie {
namespace {

constexpr std::int64_t kSequence = 500;  // tokens

// Calls `append` with the rows of some tokens at a time.
template <class Value, class Fill>
void write_rows(SafetensorsWriter& writer, std::int64_t tokens, std::size_t row, Fill&& fill) {
  std::vector<Value> chunk;
  for (std::int64_t done = 0; done < tokens; done += kSequence) {
    const std::int64_t more = std::min(kSequence, tokens - done);
    chunk.resize(static_cast<std::size_t>(more) * row);
    for (std::int64_t t = 0; t < more; ++t)
      fill(done + t, std::span(chunk).subspan(static_cast<std::size_t>(t) * row, row));
    writer.append(std::as_bytes(std::span(chunk)));
  }
}

std::vector<std::vector<std::uint16_t>> orders(const SyntheticTrace& shape) {
  SplitMix random(shape.seed);
  std::vector<std::vector<std::uint16_t>> orders(shape.layers, std::vector<std::uint16_t>(shape.experts));
  for (auto& order : orders) {
    std::iota(order.begin(), order.end(), 0);
    for (int e = shape.experts - 1; e > 0; --e) std::swap(order[e], order[random.below(e + 1)]);
  }
  return orders;
}

}  // namespace

void write_synthetic_trace(const std::filesystem::path& path, const SyntheticTrace& shape) {
  TraceHeader header{"synthetic", shape.experts, shape.top_k, std::vector<int>(shape.layers)};
  std::iota(header.layer_ids.begin(), header.layer_ids.end(), 0);
  SafetensorsWriter writer(path);
  write_header(writer, "coterie.trace/1", header);
  writer.metadata("gate_order", "descending");
  const Shape choices{shape.tokens, shape.layers, shape.top_k};
  const std::size_t row = static_cast<std::size_t>(shape.layers) * shape.top_k;
  const auto order = orders(shape);
  const double n = shape.experts;

  const auto choose = [&](std::int64_t token, auto row_of_token) {
    SplitMix of_sequence(shape.seed + 31 * static_cast<std::uint64_t>(token / kSequence));
    SplitMix random(shape.seed + 0x51ed2701 * static_cast<std::uint64_t>(token + 1));
    double place = n * of_sequence.unit() + n / 8 * (random.unit() + random.unit() - 1);
    for (int l = 0; l < shape.layers; ++l) {
      place += n / 32 * (random.unit() - 0.5);
      auto choice = row_of_token.subspan(static_cast<std::size_t>(l) * shape.top_k, shape.top_k);
      for (int c = 0; c < shape.top_k; ++c) {
        double at = random.unit() < shape.strays ? n * random.unit()
                                                 : place + 2 * shape.top_k * (random.unit() + random.unit() - 1);
        // Distinct: one that is taken makes way for the next one.
        for (bool taken = true; taken; at += 1) {
          const auto wrapped = static_cast<std::size_t>(at - n * std::floor(at / n)) % shape.experts;
          choice[c] = order[l][wrapped];
          taken = std::find(choice.begin(), choice.begin() + c, choice[c]) != choice.begin() + c;
        }
      }
    }
  };
  if (shape.experts > 255) {
    writer.begin("experts", ElementType::u16, choices);
    write_rows<std::uint16_t>(writer, shape.tokens, row, choose);
  } else {
    writer.begin("experts", ElementType::u8, choices);
    write_rows<std::uint8_t>(writer, shape.tokens, row, choose);
  }
  if (shape.weights) {
    writer.begin("weights", ElementType::f16, choices);
    std::vector<Half> gates;
    for (int c = 0; c < shape.top_k; ++c)
      gates.push_back(Half(static_cast<float>(2.0 * (shape.top_k - c) / (shape.top_k * (shape.top_k + 1.0)))));
    write_rows<Half>(writer, shape.tokens, row, [&](std::int64_t, std::span<Half> of_token) {
      for (std::size_t i = 0; i < of_token.size(); ++i) of_token[i] = gates[i % gates.size()];
    });
  }
  writer.begin("sequence", ElementType::i32, {shape.tokens});
  write_rows<std::int32_t>(writer, shape.tokens, 1, [](std::int64_t token, std::span<std::int32_t> sequence) {
    sequence[0] = static_cast<std::int32_t>(token / kSequence);
  });
  writer.finish();
}

}  // namespace coterie
