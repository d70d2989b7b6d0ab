#include "runtime/engine/logits_recorder.hpp"

#include "comm/bytes.hpp"
#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"
#include "runtime/engine/agreement.hpp"

namespace coterie {

void LogitsRecorder::record(const Request& request, std::span<const float> logits) {
  auto& rows = logits_[request.custom_id];
  rows.insert(rows.end(), logits.begin(), logits.end());
}

LogitsRecorder::Logits LogitsRecorder::gather(Communicator& comm) const {
  std::vector<std::byte> mine;
  ByteWriter put{mine};
  for (const auto& [name, values] : logits_) {
    put(name);
    put(values);
  }
  Logits all;
  for (const auto& bytes : gather_on_first(comm, mine, {"prompt logits"})) {
    std::span<const std::byte> in = bytes;
    ByteReader take{in};
    while (!in.empty()) {
      std::string name;
      take(name);
      take(all[name]);
    }
  }
  return all;
}

void write_logits(const std::filesystem::path& path, const LogitsRecorder::Logits& logits, std::int64_t vocabulary) {
  SafetensorsWriter writer(path);
  for (const auto& [name, values] : logits) {
    const auto rows = static_cast<std::int64_t>(values.size()) / vocabulary;
    writer.add(name, ElementType::f32, {rows, vocabulary}, std::as_bytes(std::span(values)));
  }
  writer.finish();
}

LogitsRecorder::Logits read_logits(const std::filesystem::path& path, std::int64_t vocabulary) {
  const SafetensorsFile file(path);
  LogitsRecorder::Logits logits;
  for (const auto& [name, tensor] : file.tensors()) {
    if (tensor.type != ElementType::f32 || tensor.shape.size() != 2 || tensor.shape[1] != vocabulary) {
      throw bad_field(path.string(), name, std::string(name_of(tensor.type)) + " " + to_string(tensor.shape),
                      "logits: F32 [tokens, " + std::to_string(vocabulary) + "]");
    }
    std::vector<float>& values = logits[name];
    values.resize(tensor.bytes.size() / sizeof(float));
    file.read(tensor.bytes, std::as_writable_bytes(std::span(values)).data());
  }
  return logits;
}

}  // namespace coterie
