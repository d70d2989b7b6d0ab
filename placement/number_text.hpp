// Numbers as people read them.
#pragma once

#include <string>

namespace coterie {

/// With so many digits behind the point.
[[nodiscard]] std::string fixed(double value, int digits);
/// "55.3 %"
[[nodiscard]] std::string percent(double share, int digits = 1);
/// "12.3 s", "28 ms"
[[nodiscard]] std::string duration(double seconds);
/// Rounded to a whole number, thousands apart: "1,234,567".
[[nodiscard]] std::string grouped(double value);
/// Three digits and a unit of 1024: "1.50 GiB"; bytes as they are below 1024.
[[nodiscard]] std::string bytes_text(double bytes);
/// Three digits and a prefix of 1000: "46.7 G", "450 m"; 0 as "0 ".
[[nodiscard]] std::string metric(double value);

}  // namespace coterie
