// DeepSeek-V3, and Kimi-K2 and GLM-4.7-Flash which are built alike: sigmoid scores, a bias for the choice alone, groups
// by their two best.
#include "runtime/families/deepseek.hpp"

namespace coterie {
namespace {

ModelSpec read(const ConfigFile& config, std::int64_t leading_dense, const GroupedRouterDefaults& defaults) {
  config.expect("scoring_func", "sigmoid");
  config.expect("topk_method", "noaux_tc");
  DeepseekOptions options;
  options.interleaved = config.flag("rope_interleave", true);
  options.leading_dense = leading_dense;
  options.route = [&](MoeSpec& moe, const std::string& prefix) { read_grouped_router(config, moe, prefix, defaults); };
  return deepseek_spec(config, options);
}

ModelSpec deepseek_v3(const ConfigFile& config) {
  return read(config, 3, {.scale = 2.5, .groups = 8, .top_groups = 4});
}
ModelSpec glm4_moe_lite(const ConfigFile& config) {
  return read(config, 1, {.scale = 1.8});
}

}  // namespace

const Family kDeepseekV3{"deepseek_v3", deepseek_v3};
const Family kGlm4MoeLite{"glm4_moe_lite", glm4_moe_lite};
const Family kKimiK2{"kimi_k2", deepseek_v3};

}  // namespace coterie
