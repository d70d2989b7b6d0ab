// Evaluates the bound that a certificate file's dual values prove, with code of its own. placement/bound/bounds.md has
// the formula and the file's layout.
#pragma once

#include "placement/files/safetensors.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

/// The relaxed problem that a set of dual values belongs to: items are divided into parts, the same number in each.
struct CheckedRelaxation {
  enum Known : std::uint8_t { free, apart, together };

  int layers = 0, experts = 0, parts = 0, capacity = 0;
  int replicas = 0;  ///< further copies of experts, per layer
  /// Weight of an expert with those of the next layer, (layers - 1)(experts, experts); empty: none.
  std::vector<std::vector<double>> between;
  /// Weight of unordered pairs inside a layer, (layers)(experts, experts); empty: none.
  std::vector<std::vector<double>> within;
  /// What is known of pairs of items: (layers)(items, items) inside a layer, (items, items) of neighbouring layers.
  std::vector<std::vector<Known>> known;
  std::vector<Known> known_between;
  /// (layers)(items): share of the load that a part may have; empty: no limit.
  std::vector<std::vector<double>> load;

  [[nodiscard]] int items() const { return parts * capacity; }
};

/// The most weight that pairs of one part can have, as the arrays `name`.* of the file prove it. Throws InputError when
/// they don't have the shapes of this relaxation, or hold negative prices or numbers that are not finite.
[[nodiscard]] double checked_bound(const SafetensorsFile& file, const std::string& name,
                                   const CheckedRelaxation& relaxation);

/// Most that `copies` further copies of a layer's experts gain, when each meets `meets` others and an expert's copies
/// meet none twice. `gain` (experts, experts): of an expert (row) with those that it may meet.
[[nodiscard]] double most_of_copies(const std::vector<double>& gain, int experts, int copies, int meets);

/// Reads an array of the file as numbers of type T, which must be of this type and shape (-1: any length).
template <typename T>
[[nodiscard]] std::vector<T> checked_array(const SafetensorsFile& file, const std::string& name, ElementType type,
                                           const Shape& shape);
extern template std::vector<float> checked_array(const SafetensorsFile&, const std::string&, ElementType, const Shape&);
extern template std::vector<double> checked_array(const SafetensorsFile&, const std::string&, ElementType,
                                                  const Shape&);
extern template std::vector<std::uint16_t> checked_array(const SafetensorsFile&, const std::string&, ElementType,
                                                         const Shape&);
extern template std::vector<std::int32_t> checked_array(const SafetensorsFile&, const std::string&, ElementType,
                                                        const Shape&);

}  // namespace coterie
