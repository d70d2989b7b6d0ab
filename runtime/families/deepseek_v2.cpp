// DeepSeek-V2: softmax over all experts, the best ones of all or of the best groups, not normalised.
#include "runtime/families/deepseek.hpp"

namespace coterie {
namespace {

void choose_from_groups(const ConfigFile& config, MoeSpec& moe) {
  RouterOptions& router = moe.router;
  const auto experts = static_cast<std::int64_t>(moe.experts.size());
  router.groups = static_cast<int>(config.positive("n_group"));
  router.top_groups = static_cast<int>(config.positive("topk_group"));
  if (experts % router.groups != 0) config.fail("n_group", "a divisor of n_routed_experts");
  if (router.top_groups > router.groups) config.fail("topk_group", "at most n_group");
  if (router.top_k > experts / router.groups * router.top_groups) {
    config.fail("topk_group", "groups of at least num_experts_per_tok experts together");
  }
}

ModelSpec deepseek_v2(const ConfigFile& config) {
  config.expect("scoring_func", "softmax");
  // The reference implementation doesn't read it, and published models have false.
  config.ignore({"norm_topk_prob", "n_group", "topk_group"});
  const std::string method = config.has("topk_method") ? config.text("topk_method") : "greedy";
  if (method != "greedy" && method != "group_limited_greedy") {
    config.fail("topk_method", "\"greedy\" or \"group_limited_greedy\"");
  }
  DeepseekOptions options;
  options.route = [&](MoeSpec& moe, const std::string&) {
    moe.router.scale = static_cast<float>(config.number("routed_scaling_factor", 1));
    if (method == "group_limited_greedy") choose_from_groups(config, moe);
  };
  return deepseek_spec(config, options);
}

}  // namespace

const Family kDeepseekV2{"deepseek_v2", deepseek_v2};

}  // namespace coterie
