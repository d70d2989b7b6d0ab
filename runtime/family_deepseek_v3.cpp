// DeepSeek-V3, and Kimi-K2 which is built alike: sigmoid scores, a bias for the choice alone, groups by their two best.
#include "runtime/family_deepseek.hpp"

namespace coterie {
namespace {

ModelSpec deepseek_v3(const ConfigFile& config) {
  config.expect("scoring_func", "sigmoid");
  config.expect("topk_method", "noaux_tc");
  DeepseekOptions options;
  options.interleaved = config.flag("rope_interleave", true);
  options.route = [&](MoeSpec& moe, const std::string& prefix) { read_grouped_router(config, moe, prefix, true); };
  return deepseek_spec(config, options);
}

}  // namespace

const Family kDeepseekV3{"deepseek_v3", deepseek_v3};
const Family kKimiK2{"kimi_k2", deepseek_v3};

}  // namespace coterie
