#include "placement/trace/trace_header.hpp"

#include "placement/files/json_view.hpp"
#include "placement/input_error.hpp"

#include <charconv>
#include <limits>

namespace coterie {
namespace {

constexpr int kMostExperts = 65535;

int header_integer(const SafetensorsFile& file, const std::string& key, int most) {
  const std::string& text = header_text(file, key);
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > most)
    throw bad_field(file.path().string(), "__metadata__." + key, "'" + text + "'",
                    "an integer from 1 to " + std::to_string(most));
  return value;
}

}  // namespace

const std::string& header_text(const SafetensorsFile& file, const std::string& key) {
  const auto it = file.metadata().find(key);
  if (it == file.metadata().end())
    throw bad_field(file.path().string(), "__metadata__." + key, "nothing", "this field");
  return it->second;
}

TraceHeader read_header(const SafetensorsFile& file, const std::string& format) {
  if (const std::string& found = header_text(file, "format"); found != format)
    throw bad_field(file.path().string(), "__metadata__.format", "'" + found + "'", "'" + format + "'");
  TraceHeader header;
  if (file.metadata().contains("model")) header.model = header_text(file, "model");
  header.num_experts = header_integer(file, "num_experts", kMostExperts);
  header.top_k = header_integer(file, "top_k", header.num_experts);
  const std::string where = file.path().string() + ": __metadata__.layer_ids";
  const nlohmann::json layers = parse_json(header_text(file, "layer_ids"), where);
  header.layer_ids = JsonView(layers, where).integers(0, std::numeric_limits<int>::max());
  validate(header, file.path().string());
  return header;
}

void write_header(SafetensorsWriter& writer, const std::string& format, const TraceHeader& header) {
  writer.metadata("format", format);
  writer.metadata("model", header.model);
  writer.metadata("num_experts", std::to_string(header.num_experts));
  writer.metadata("top_k", std::to_string(header.top_k));
  writer.metadata("layer_ids", nlohmann::json(header.layer_ids).dump());
}

void validate(const TraceHeader& header, const std::string& where) {
  if (header.num_experts < 1 || header.num_experts > kMostExperts)
    throw bad_field(where, "num_experts", std::to_string(header.num_experts), "1 to " + std::to_string(kMostExperts));
  if (header.top_k < 1 || header.top_k > header.num_experts)
    throw bad_field(where, "top_k", std::to_string(header.top_k), "1 to " + std::to_string(header.num_experts));
  const auto& layers = header.layer_ids;
  if (layers.empty()) throw bad_field(where, "layer_ids", "[]", "at least one layer");
  for (std::size_t l = 0; l < layers.size(); ++l)
    if (layers[l] < 0 || (l > 0 && layers[l] <= layers[l - 1]))
      throw bad_field(where, "layer_ids[" + std::to_string(l) + "]", std::to_string(layers[l]),
                      "layers in ascending order, from 0");
}

}  // namespace coterie
