#include "runtime/step_report.hpp"

#include "runtime/bytes.hpp"

namespace coterie {

std::vector<std::byte> StepReport::to_bytes() const {
  std::vector<std::byte> out;
  ByteWriter write{out};
  write(stop);
  write(exhausted);
  write(rows);
  write(finished_work);
  write(results);
  write(dealt.size());
  for (const Dealer::Dealt& d : dealt) {
    write(d.rank);
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
  read(report.rows);
  read(report.finished_work);
  read(report.results);
  read(dealt);
  for (; dealt > 0; --dealt) {
    int rank = 0;
    read(rank);
    report.dealt.push_back({rank, take_request(bytes)});
  }
  return report;
}

}  // namespace coterie
