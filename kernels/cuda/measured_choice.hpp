// Which of two ways to compute experts took less time, by the shape of a call.
#pragma once

#include <cstdint>
#include <vector>

namespace coterie {

class MeasuredChoice {
 public:
  /// Of a call of so many experts, and rows in all.
  void add(std::int64_t experts, std::int64_t rows, bool second_is_faster);
  /// Whether the second way was faster at the measured shape that is nearest, by experts and by rows of each; where
  /// nothing was measured it is.
  [[nodiscard]] bool second(std::int64_t experts, std::int64_t rows) const;

 private:
  struct Shape {
    double experts, rows_each;  ///< logarithms
    bool second;
  };
  std::vector<Shape> measured_;
};

}  // namespace coterie
