#include "kernels/cuda/measured_choice.hpp"

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

double logarithm(std::int64_t experts, std::int64_t rows) {
  return std::log2(static_cast<double>(rows) / static_cast<double>(experts));
}

}  // namespace

void MeasuredChoice::add(std::int64_t experts, std::int64_t rows, bool second_is_faster) {
  measured_.push_back({std::log2(static_cast<double>(experts)), logarithm(experts, rows), second_is_faster});
}

bool MeasuredChoice::second(std::int64_t experts, std::int64_t rows) const {
  if (measured_.empty()) return true;
  const double by_experts = std::log2(static_cast<double>(experts)), by_rows = logarithm(experts, rows);
  const auto distance = [&](const Shape& shape) {
    return std::hypot(shape.experts - by_experts, shape.rows_each - by_rows);
  };
  return std::ranges::min_element(measured_, {}, distance)->second;
}

}  // namespace coterie
