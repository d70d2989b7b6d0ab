#include "placement/number_text.hpp"

#include <array>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace coterie {
namespace {

/// `value` in steps of `step` as three digits, and how many steps there were from `first` on.
template <std::size_t Units>
std::string scaled(double value, double step, const std::array<std::string_view, Units>& units, std::size_t first) {
  std::size_t unit = first;
  while (unit + 1 < Units && std::abs(value) >= step * 0.9995) value /= step, ++unit;
  while (unit > 0 && value != 0 && std::abs(value) < 0.9995) value *= step, --unit;
  const int digits = std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
  return fixed(value, value == 0 ? 0 : digits) + " " + std::string(units[unit]);
}

}  // namespace

std::string fixed(double value, int digits) {
  std::array<char, 400> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string percent(double share, int digits) {
  return fixed(100 * share, digits) + " %";
}

std::string duration(double seconds) {
  return seconds < 0.9995 ? fixed(1000 * seconds, 0) + " ms" : fixed(seconds, 1) + " s";
}

std::string grouped(double value) {
  std::string text = fixed(value, 0);
  const std::size_t sign = value < 0 ? 1 : 0;
  for (std::size_t at = text.size(); at > sign + 3; at -= 3) text.insert(at - 3, 1, ',');
  return text;
}

std::string bytes_text(double bytes) {
  if (bytes < 1024) return fixed(bytes, 0) + " B";
  constexpr std::array<std::string_view, 6> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  return scaled(bytes, 1024, kUnits, 0);
}

std::string metric(double value) {
  constexpr std::array<std::string_view, 9> kUnits{"n", "u", "m", "", "k", "M", "G", "T", "P"};
  return scaled(value, 1000, kUnits, 3);
}

}  // namespace coterie
