#include "runtime/checkpoint/rotary.hpp"

#include "runtime/checkpoint/config_file.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace coterie {
namespace {

/// Everything that a type may be given. What a type has no use for does no harm, as it may not change the arithmetic.
constexpr std::array kParameters{"rope_type",   "type",         "rope_theta",       "partial_rotary_factor",
                                 "factor",      "mscale",       "mscale_all_dim",   "original_max_position_embeddings",
                                 "beta_fast",   "beta_slow",    "attention_factor", "max_position_embeddings",
                                 "truncate",    "short_factor", "long_factor",      "low_freq_factor",
                                 "long_mscale", "short_mscale", "high_freq_factor"};

/// The parameters of one type, with what its family's config says around them.
struct Parameters {
  const ConfigFile& config;
  const ConfigFile& scaling;  ///< the config itself where nothing is scaled
  std::int64_t dim;           ///< columns that are turned
  double theta;

  [[nodiscard]] double positive(const std::string& field) const {
    const double value = scaling.number(field);
    if (value <= 0) scaling.fail(field, "a positive number");
    return value;
  }
  [[nodiscard]] double positive_or(const std::string& field, double fallback) const {
    return scaling.has(field) && scaling.number(field) != 0 ? positive(field) : fallback;
  }
  [[nodiscard]] double longest() const { return static_cast<double>(config.positive("max_position_embeddings")); }
  /// The length that the model was trained with before it was stretched.
  [[nodiscard]] std::int64_t original() const {
    const char* const field = "original_max_position_embeddings";
    const std::int64_t length =
        (config.has(field) ? config : scaling).positive(field, config.positive("max_position_embeddings"));
    if (scaling.has(field) && scaling.positive(field) != length) {
      scaling.fail(field, std::to_string(length) + ", as beside it in the config");
    }
    return length;
  }
  /// How far it was stretched.
  [[nodiscard]] double factor() const {
    return scaling.has("factor") ? positive("factor") : longest() / static_cast<double>(original());
  }
};

std::vector<float> frequencies(double theta, std::int64_t dim) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < dim; i += 2) {
    out.push_back(1.0F / std::pow(static_cast<float>(theta), static_cast<float>(i) / static_cast<float>(dim)));
  }
  return out;
}

RotarySpec usual(const Parameters& p) {
  RotarySpec out;
  out.usual.inverse_frequencies = frequencies(p.theta, p.dim);
  return out;
}

RotarySpec linear(const Parameters& p) {
  RotarySpec out = usual(p);
  for (float& f : out.usual.inverse_frequencies) f /= static_cast<float>(p.positive("factor"));
  return out;
}

/// Positions of a model that was made for `context` of them.
std::int64_t stretched(std::int64_t context, double factor) {
  return static_cast<std::int64_t>(std::min(static_cast<double>(context) * factor, 0x1p31 - 1));
}

RotarySpec dynamic_ntk(const Parameters& p) {
  if (p.dim <= 2) p.config.fail("head_dim", "more than 2 rotated columns for rope_type \"dynamic\"");
  RotarySpec out = usual(p);
  out.context = p.config.positive("max_position_embeddings");
  out.theta = p.theta;
  out.factor = p.positive("factor");
  out.reach = stretched(out.context, out.factor);
  return out;
}

double mscale(double factor, double by) {
  return factor <= 1 ? 1.0 : 0.1 * by * std::log(factor) + 1.0;
}

/// YaRN (Peng et al., arXiv 2309.00071, section 3).
RotarySpec yarn(const Parameters& p) {
  const double factor = p.factor();
  const double by = p.scaling.number("mscale", 0);
  const double by_all = p.scaling.number("mscale_all_dim", 0);
  const double scale = by != 0 && by_all != 0 ? mscale(factor, by) / mscale(factor, by_all) : mscale(factor, 1);
  const auto original = static_cast<double>(p.original());
  const auto dim = static_cast<double>(p.dim);
  /// The column that turns so often over the original length.
  const auto column = [&](double turns) {
    return dim * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(p.theta));
  };
  double low = column(p.positive_or("beta_fast", 32));
  double high = column(p.positive_or("beta_slow", 1));
  if (p.scaling.flag("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;

  RotarySpec out = usual(p);
  out.usual.scale = static_cast<float>(p.scaling.number("attention_factor", scale));
  out.reach = stretched(p.original(), factor);
  for (std::size_t i = 0; i < out.usual.inverse_frequencies.size(); ++i) {
    float& f = out.usual.inverse_frequencies[i];
    const auto ramp = static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
    f = f / static_cast<float>(factor) * ramp + f * (1 - ramp);
  }
  return out;
}

RotarySpec llama3(const Parameters& p) {
  const auto factor = static_cast<float>(p.positive("factor"));
  const double low = p.positive("low_freq_factor");
  const double high = p.positive("high_freq_factor");
  if (high <= low) p.scaling.fail("high_freq_factor", "more than low_freq_factor");
  const auto original = static_cast<double>(p.original());
  RotarySpec out = usual(p);
  for (float& f : out.usual.inverse_frequencies) {
    const double turns = original * f / (2 * std::numbers::pi);
    const auto keep = static_cast<float>(std::clamp((turns - low) / (high - low), 0.0, 1.0));
    f = (1 - keep) * f / factor + keep * f;
  }
  return out;
}

/// LongRoPE (Ding et al., arXiv 2402.13753), as the Phi models have it. HF transformers 5.23 changes the scale alone
/// beyond the original length, and leaves a phimoe model the short factors.
RotarySpec longrope(const Parameters& p) {
  const auto original = p.original();
  const double factor = p.factor();
  const double scale = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original)));
  const auto rotary = [&](const std::string& length) {
    const std::vector<double> factors = p.scaling.numbers(length + "_factor");
    Rotary out{frequencies(p.theta, p.dim)};
    const bool positive = std::all_of(factors.begin(), factors.end(), [](double f) { return f > 0; });
    if (factors.size() != out.inverse_frequencies.size() || !positive) {
      p.scaling.fail(length + "_factor", std::to_string(out.inverse_frequencies.size()) + " positive numbers");
    }
    for (std::size_t i = 0; i < factors.size(); ++i) out.inverse_frequencies[i] /= static_cast<float>(factors[i]);
    out.scale = static_cast<float>(p.scaling.number(length + "_mscale", p.scaling.number("attention_factor", scale)));
    return out;
  };
  RotarySpec out;
  out.usual = rotary("short");
  out.longer = rotary("long");
  out.context = original;
  return out;
}

struct Type {
  const char* name;
  RotarySpec (*read)(const Parameters& parameters);
};
constexpr std::array kTypes{Type{"default", usual}, Type{"linear", linear}, Type{"dynamic", dynamic_ntk},
                            Type{"yarn", yarn},     Type{"llama3", llama3}, Type{"longrope", longrope}};

RotarySpec (*reader(const ConfigFile& scaling))(const Parameters&) {
  const std::string field = scaling.has("rope_type") ? "rope_type" : "type";
  if (!scaling.has(field)) return usual;
  const std::string name = scaling.text(field);
  std::string names;
  for (const Type& type : kTypes) {
    if (name == type.name) return type.read;
    names.append(names.empty() ? "" : ", ").append(type.name);
  }
  scaling.fail(field, "one of the supported types: " + names);
}

/// The object that has a layer's parameters, where there is one.
std::optional<ConfigFile> find_scaling(const ConfigFile& config, const RotaryDefaults& defaults) {
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    auto scaling = config.object(name);
    if (!scaling || scaling->fields().empty()) continue;
    if (scaling->has(defaults.layer_type)) return scaling->object(defaults.layer_type);
    return scaling;
  }
  if (!defaults.scaling.empty()) return config.object_of("rope_parameters", defaults.scaling);
  return std::nullopt;
}

}  // namespace

Rotary RotarySpec::of_length(std::int64_t tokens) const {
  if (context == 0 || tokens <= context) return usual;
  if (longer) return *longer;
  const auto dim = static_cast<double>(2 * usual.inverse_frequencies.size());
  const double stretched = factor * static_cast<double>(tokens) / static_cast<double>(context) - (factor - 1);
  Rotary out = usual;
  out.inverse_frequencies =
      frequencies(theta * std::pow(stretched, dim / (dim - 2)), 2 * std::ssize(usual.inverse_frequencies));
  return out;
}

RotarySpec read_rotary(const ConfigFile& config, std::int64_t head_dim, const RotaryDefaults& defaults) {
  const auto found = find_scaling(config, defaults);
  const ConfigFile& scaling = found ? *found : config;
  if (found) {
    for (const std::string& field : found->fields()) {
      const bool known = std::find(kParameters.begin(), kParameters.end(), field) != kParameters.end();
      if (!known && found->has(field)) found->fail(field, "a known parameter of rotary embeddings");
    }
  }
  const auto holder = [&](const char* field) -> const ConfigFile& { return scaling.has(field) ? scaling : config; };
  const double theta = holder("rope_theta").number("rope_theta", defaults.theta);
  if (theta <= 0) holder("rope_theta").fail("rope_theta", "a positive number");
  const double partial = holder("partial_rotary_factor").number("partial_rotary_factor", defaults.partial);
  const auto dim = static_cast<std::int64_t>(static_cast<double>(head_dim) * partial);
  if (partial <= 0 || partial > 1 || dim < 2 || dim % 2 != 0) {
    holder("partial_rotary_factor").fail("partial_rotary_factor", "an even number of columns of a head");
  }
  const auto read = found ? reader(scaling) : usual;
  const Parameters parameters{config, scaling, dim, theta};
  RotarySpec out = read(parameters);
  const double by_all = read == usual ? 0 : scaling.number("mscale_all_dim", 0);
  if (by_all != 0) out.score_factor = static_cast<float>(std::pow(mscale(parameters.factor(), by_all), 2));
  out.usual.interleaved = defaults.interleaved;
  if (out.longer) out.longer->interleaved = defaults.interleaved;
  return out;
}

}  // namespace coterie
