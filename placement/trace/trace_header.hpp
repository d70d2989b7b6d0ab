// The strings in the header of coterie.trace/1 and coterie.load/1 files: which model the numbers are of.
#pragma once

#include "placement/files/safetensors.hpp"

#include <string>
#include <vector>

namespace coterie {

struct TraceHeader {
  std::string model;
  int num_experts = 0;
  int top_k = 0;
  std::vector<int> layer_ids;
};

/// Throws InputError when the file's format isn't `format` or a string is missing or means nothing.
[[nodiscard]] TraceHeader read_header(const SafetensorsFile& file, const std::string& format);
void write_header(SafetensorsWriter& writer, const std::string& format, const TraceHeader& header);
/// Ranges, and layer_ids in ascending order.
void validate(const TraceHeader& header, const std::string& where);

/// A string of the header; throws InputError when it is missing.
[[nodiscard]] const std::string& header_text(const SafetensorsFile& file, const std::string& key);

}  // namespace coterie
