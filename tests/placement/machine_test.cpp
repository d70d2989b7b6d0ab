#include "placement/machine.hpp"

#include "placement/input_error.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace coterie {
namespace {

using nlohmann::json;

Machine small_machine() {
  Machine machine{"coterie calibrate 0.1.0", "2026-01-31T12:00:00Z",   "2 hosts of 4 ranks",    {2e-6, 4e11},
                  Link{1e-5, 5e10},          {{1, 1e12}, {100, 5e13}}, std::uint64_t{80} << 30U};
  return machine;
}

TEST(Machine, ComesBackAsItWasWritten) {
  const ScratchFolder folder;
  write_machine(folder / "m.json", small_machine());
  const Machine machine = read_machine(folder / "m.json");
  EXPECT_EQ(machine.measured_by, "coterie calibrate 0.1.0");
  EXPECT_EQ(machine.measured_when, "2026-01-31T12:00:00Z");
  EXPECT_EQ(machine.measured_on, "2 hosts of 4 ranks");
  EXPECT_EQ(machine.inside_node.latency, 2e-6);
  ASSERT_TRUE(machine.between_nodes);
  EXPECT_EQ(machine.between_nodes->bandwidth, 5e10);
  ASSERT_EQ(machine.gemm.size(), 2U);
  EXPECT_EQ(machine.gemm[1].rows, 100);
  EXPECT_EQ(machine.memory_per_rank, std::uint64_t{80} << 30U);
}

TEST(Machine, PricesRowsByBandwidth) {
  Machine machine = small_machine();
  EXPECT_DOUBLE_EQ(link_prices(machine).between_nodes, 8);
  machine.between_nodes->bandwidth = 1e11;
  EXPECT_DOUBLE_EQ(link_prices(machine).inside_node, 1);
  EXPECT_DOUBLE_EQ(link_prices(machine).between_nodes, 4);
  machine.between_nodes.reset();
  EXPECT_DOUBLE_EQ(link_prices(machine).between_nodes, LinkPrices{}.between_nodes);
}

TEST(Machine, GemmTimeGrowsSteadilyBetweenWhatWasMeasured) {
  const Machine machine = small_machine();
  EXPECT_DOUBLE_EQ(machine.gemm_rate(0.5), 1e12);
  EXPECT_DOUBLE_EQ(machine.gemm_rate(1), 1e12);
  EXPECT_DOUBLE_EQ(machine.gemm_rate(100), 5e13);
  EXPECT_DOUBLE_EQ(machine.gemm_rate(1e6), 5e13);
  // 1e-12 s at one row, 2e-12 s at 100: half way in rows is half way in time.
  EXPECT_DOUBLE_EQ(machine.gemm_rate(50.5), 50.5 / 1.5e-12);
}

TEST(Machine, SaysWhatIsWrongAndWhere) {
  const ScratchFolder folder;
  write_machine(folder / "good.json", small_machine());
  const json good = json::parse(read_bytes(folder / "good.json"));
  const auto refused = [&](const std::string& pointer, const json& value, const std::string& field) {
    json bad = good;
    bad[json::json_pointer(pointer)] = value;
    write_bytes(folder / "bad.json", bad.dump());
    try {
      (void)read_machine(folder / "bad.json");
      ADD_FAILURE() << pointer << " = " << value << " was taken";
    } catch (const InputError& e) {
      const std::string text = e.what();
      EXPECT_NE(text.find("bad.json"), std::string::npos) << text;
      EXPECT_NE(text.find(field), std::string::npos) << text;
      EXPECT_NE(text.find("expected"), std::string::npos) << text;
    }
  };
  refused("/format", "coterie.machine/2", "format");
  refused("/inside_node/bytes_per_second", 0, "inside_node.bytes_per_second");
  refused("/inside_node/latency_seconds", -1, "inside_node.latency_seconds");
  refused("/between_nodes/bytes_per_second", "fast", "between_nodes.bytes_per_second");
  refused("/gemm", json::array(), "gemm");
  refused("/gemm/1/rows", 1, "gemm[1].rows");
  refused("/gemm/0/flop_per_second", nullptr, "gemm[0].flop_per_second");
  refused("/memory_per_rank_bytes", 1.5, "memory_per_rank_bytes");
  refused("/memory_per_rank_bytes", 0, "memory_per_rank_bytes");
  refused("/measured/by", 3, "measured.by");

  json none = good;
  none["between_nodes"] = nullptr;
  write_bytes(folder / "one.json", none.dump());
  EXPECT_FALSE(read_machine(folder / "one.json").between_nodes);
  none.erase("memory_per_rank_bytes");
  write_bytes(folder / "one.json", none.dump());
  EXPECT_EQ(read_machine(folder / "one.json").memory_per_rank, 0U);
  none.erase("gemm");
  write_bytes(folder / "one.json", none.dump());
  EXPECT_THROW((void)read_machine(folder / "one.json"), InputError);
}

}  // namespace
}  // namespace coterie
