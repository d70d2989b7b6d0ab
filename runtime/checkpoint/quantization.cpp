#include "runtime/checkpoint/quantization.hpp"

#include "runtime/checkpoint/config_file.hpp"

#include <algorithm>
#include <array>
#include <regex>
#include <string_view>

namespace coterie {
namespace {

/// What says how activations are rounded on other devices, or what a program did when it wrote the file.
constexpr std::array<std::string_view, 6> kHarmless{"activation_scheme", "scale_fmt", "modules_to_convert",
                                                    "dequantize",        "_comment",  "kv_cache_quant_method"};

void expect_known(const ConfigFile& quantization, std::initializer_list<std::string_view> known) {
  const auto in = [](const auto& list, const std::string& field) {
    return std::find(list.begin(), list.end(), field) != list.end();
  };
  for (const std::string& field : quantization.fields()) {
    if (in(known, field) || in(kHarmless, field)) continue;
    quantization.fail(field, "no such field: what it means is not known");
  }
}

std::vector<std::string> read_unconverted(const ConfigFile& quantization) {
  const char* const field = quantization.has("ignored_layers") ? "ignored_layers" : "modules_to_not_convert";
  std::vector<std::string> patterns = quantization.texts(field);
  try {
    for (const std::string& pattern : patterns) (void)std::regex(pattern);
  } catch (const std::regex_error&) {
    quantization.fail(field, "names of modules, or regular expressions for them");
  }
  return patterns;
}

/// HF transformers' rule: a pattern stands for every module that it matches from the beginning to a dot or the end,
/// and for those that end with it as it is.
bool matches(const std::string& module, const std::string& pattern) {
  if (module.ends_with(pattern)) return true;
  const std::regex expression(pattern);
  for (std::size_t end = 1; end <= module.size(); ++end) {
    const bool boundary = end == module.size() || module[end] == '.' || module[end - 1] == '.';
    const auto last = module.begin() + static_cast<std::ptrdiff_t>(end);
    if (boundary && std::regex_match(module.begin(), last, expression)) return true;
  }
  return false;
}

}  // namespace

std::string_view Quantization::name() const noexcept {
  return method == Method::fp8 ? "fp8" : method == Method::mxfp4 ? "mxfp4" : "none";
}

bool Quantization::converts(const std::string& module) const {
  return method != Method::none && std::none_of(unconverted.begin(), unconverted.end(),
                                                [&](const std::string& pattern) { return matches(module, pattern); });
}

Quantization read_quantization(const ConfigFile& config) {
  Quantization out;
  const auto quantization = config.object("quantization_config");
  if (!quantization) return out;
  const std::string method = quantization->has("quant_method") ? quantization->text("quant_method") : "";
  if (method == "fp8") {
    out.method = Quantization::Method::fp8;
    expect_known(*quantization, {"quant_method", "fmt", "expert_dtype", "weight_block_size", "modules_to_not_convert",
                                 "ignored_layers"});
    if (quantization->has("fmt") && quantization->text("fmt") != "float8_e4m3fn") quantization->expect("fmt", "e4m3");
    quantization->expect("expert_dtype", "fp8");
    const std::vector<std::int32_t> block = quantization->integers("weight_block_size");
    if (!block.empty() && (block.size() != 2 || block[0] < 1 || block[1] < 1)) {
      quantization->fail("weight_block_size", "two positive integers, or null for one scale for a matrix");
    }
    if (!block.empty()) out.block_rows = block[0];
    if (!block.empty()) out.block_cols = block[1];
  } else if (method == "mxfp4") {
    out.method = Quantization::Method::mxfp4;
    expect_known(*quantization, {"quant_method", "modules_to_not_convert", "ignored_layers"});
  } else {
    quantization->fail("quant_method",
                       "fp8 (F8_E4M3 with weight_scale_inv) or mxfp4, or weights stored as F32, F16 or BF16");
  }
  out.unconverted = read_unconverted(*quantization);
  return out;
}

}  // namespace coterie
