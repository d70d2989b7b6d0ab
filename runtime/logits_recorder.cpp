#include "runtime/logits_recorder.hpp"

#include "placement/safetensors.hpp"
#include "runtime/agreement.hpp"
#include "runtime/bytes.hpp"

namespace coterie {

void LogitsRecorder::record(const Request& request, std::int64_t /*position*/, std::span<const float> logits) {
  auto& rows = logits_[request.custom_id];
  rows.insert(rows.end(), logits.begin(), logits.end());
}

void LogitsRecorder::write(Communicator& comm, const std::filesystem::path& path, std::int64_t vocabulary) const {
  std::vector<std::byte> mine;
  ByteWriter             put{mine};
  for (const auto& [name, values] : logits_) {
    put(name);
    put(values);
  }
  const auto gathered = gather_on_first(comm, mine, {"prompt logits"});
  if (comm.rank() != 0) return;

  SafetensorsWriter writer(path);
  for (const auto& bytes : gathered) {
    std::span<const std::byte> in = bytes;
    ByteReader                 take{in};
    while (!in.empty()) {
      std::string        name;
      std::vector<float> values;
      take(name);
      take(values);
      const auto rows = static_cast<std::int64_t>(values.size()) / vocabulary;
      writer.add(name, ElementType::f32, {rows, vocabulary}, std::as_bytes(std::span(values)));
    }
  }
  writer.finish();
}

}  // namespace coterie
