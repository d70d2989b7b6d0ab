#include "runtime/engine/step_report.hpp"

#include "comm/bytes.hpp"

namespace coterie {

std::vector<std::byte> StepReport::to_bytes() const {
  std::vector<std::byte> out;
  ByteWriter write{out};
  write(stop);
  write(exhausted);
  write(spill_digest);
  write(short_of_memory);
  write(rows);
  write(finished_work);
  write(samples.size());
  for (const RowSample& s : samples) {
    write(s.row);
    write(s.sampled.token);
    write(s.sampled.logprobs.chosen);
    write(s.sampled.logprobs.top.size());
    for (const auto& [token, logprob] : s.sampled.logprobs.top) {
      write(token);
      write(logprob);
    }
  }
  write(results);
  write(dealt.size());
  for (const Dealer::Dealt& d : dealt) {
    write(d.domain);
    append(out, d.request);
  }
  return out;
}

StepReport StepReport::from_bytes(std::span<const std::byte> bytes) {
  StepReport report;
  ByteReader read{bytes};
  std::size_t dealt = 0;
  read(report.stop);
  read(report.exhausted);
  read(report.spill_digest);
  read(report.short_of_memory);
  read(report.rows);
  read(report.finished_work);
  std::size_t samples = 0;
  read(samples);
  for (; samples > 0; --samples) {
    RowSample s;
    std::size_t top = 0;
    read(s.row);
    read(s.sampled.token);
    read(s.sampled.logprobs.chosen);
    read(top);
    for (; top > 0; --top) {
      auto& [token, logprob] = s.sampled.logprobs.top.emplace_back();
      read(token);
      read(logprob);
    }
    report.samples.push_back(std::move(s));
  }
  read(report.results);
  read(dealt);
  for (; dealt > 0; --dealt) {
    int domain = 0;
    read(domain);
    report.dealt.push_back({domain, take_request(bytes)});
  }
  return report;
}

}  // namespace coterie
