// Rotary embeddings as config.json files ask for them.
#include "runtime/checkpoint/rotary.hpp"

#include "placement/files/json_view.hpp"
#include "placement/input_error.hpp"
#include "runtime/checkpoint/config_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

namespace coterie {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

ConfigFile config_of(const json& fields) {
  const auto path = std::filesystem::path(testing::TempDir()) / "coterie_rotary_config.json";
  std::ofstream(path) << fields;
  return ConfigFile(path);
}

TEST(Rotary, EqualsTheReferenceImplementation) {
  // What made the cases: make_cases.py beside them.
  const json cases = read_json(std::filesystem::path(COTERIE_FIXTURES) / "rotary/cases.json");
  ASSERT_GE(cases.size(), 60U);
  for (const json& one : cases) {
    SCOPED_TRACE(one["config"].dump());
    RotaryDefaults defaults;
    defaults.layer_type = one["layer_type"];
    const RotarySpec spec = read_rotary(config_of(one["config"]), one["head_dim"], defaults);
    for (const json& at : one["lengths"]) {
      const Rotary rotary = spec.of_length(at["length"]);
      const auto expected = at["frequencies"].get<std::vector<float>>();
      ASSERT_EQ(rotary.inverse_frequencies.size(), expected.size());
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_NEAR(rotary.inverse_frequencies[i], expected[i], 1e-6 * expected[i]) << "length " << at["length"];
      }
      EXPECT_NEAR(rotary.scale, at["scale"].get<float>(), 1e-6);
    }
  }
}

TEST(Rotary, DependsOnTheLengthOnlyWhereItMust) {
  const json base{{"max_position_embeddings", 64}};
  for (const auto& [type, depends] : {std::pair{"linear", false}, {"yarn", false}, {"dynamic", true}}) {
    json fields = base;
    fields["rope_scaling"] = {{"type", type}, {"factor", 4.0}};
    EXPECT_EQ(read_rotary(config_of(fields), 16).depends_on_length(), depends) << type;
  }
  EXPECT_FALSE(read_rotary(config_of(base), 16).depends_on_length());
}

TEST(Rotary, TakesTheFamilysDefaults) {
  const RotarySpec spec = read_rotary(config_of(json::object()), 16, {.theta = 100, .partial = 0.25});
  ASSERT_EQ(spec.usual.inverse_frequencies.size(), 2U);
  EXPECT_NEAR(spec.usual.inverse_frequencies[1], 0.1, 1e-7);
}

TEST(Rotary, ScoresGrowWithMscaleOfAllDimensions) {
  json scaling{{"type", "yarn"}, {"factor", 40}, {"original_max_position_embeddings", 4096}, {"mscale_all_dim", 0.707}};
  const json fields{{"max_position_embeddings", 163840}, {"rope_scaling", scaling}};
  EXPECT_NEAR(read_rotary(config_of(fields), 64).score_factor, std::pow(0.0707 * std::log(40.0) + 1, 2), 1e-6);
  scaling["type"] = "default";
  EXPECT_EQ(read_rotary(config_of({{"rope_scaling", scaling}}), 64).score_factor, 1);
}

TEST(Rotary, RefusesWhatItDoesNotKnow) {
  const auto fails = [](const json& scaling, const std::string& says) {
    const ConfigFile config = config_of({{"max_position_embeddings", 64}, {"rope_scaling", scaling}});
    EXPECT_THAT([&] { (void)read_rotary(config, 16); },
                ThrowsMessage<InputError>(AllOf(HasSubstr("config.json"), HasSubstr("rope_scaling"), HasSubstr(says))));
  };
  fails({{"type", "mrope"}}, "\"mrope\"");
  fails({{"rope_type", "mrope"}}, "default, linear, dynamic, yarn, llama3, longrope");
  fails({{"type", "default"}, {"mrope_section", {2, 2, 4}}}, "mrope_section");
  fails({{"type", "linear"}}, "rope_scaling.factor");
  fails({{"type", "linear"}, {"factor", -2}}, "a positive number");
  fails({{"type", "longrope"}, {"short_factor", {1, 2}}, {"long_factor", {1, 2}}}, "8 positive numbers");
  fails({{"type", "default"}, {"partial_rotary_factor", 0.2}}, "an even number of columns");
  fails({{"type", "default"}, {"rope_theta", 0}}, "rope_scaling.rope_theta: found 0");
  const ConfigFile twice =
      config_of({{"max_position_embeddings", 64},
                 {"original_max_position_embeddings", 32},
                 {"rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 16}}}});
  EXPECT_THAT([&] { (void)read_rotary(twice, 16); }, ThrowsMessage<InputError>(HasSubstr("found 16, expected 32")));
}

}  // namespace
}  // namespace coterie
