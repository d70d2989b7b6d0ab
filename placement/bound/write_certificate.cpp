// The certificate file: coterie.certificate/1 (safetensors). placement/bound/bounds.md has the layout.
#include "placement/bound/bound.hpp"
#include "placement/bound/dual_certificate.hpp"
#include "placement/files/safetensors.hpp"

#include <array>
#include <charconv>
#include <span>
#include <string>
#include <vector>

namespace coterie {
namespace {

template <typename T>
void add(SafetensorsWriter& file, const std::string& name, ElementType type, const Shape& shape,
         const std::vector<T>& values) {
  file.add(name, type, shape, std::as_bytes(std::span(values)));
}

void add_level(SafetensorsWriter& file, const DualCertificate::Level& level) {
  const DualValues& dual = level.dual;
  const auto blocks = static_cast<std::int64_t>(dual.matrix.size());
  const auto entries = static_cast<std::int64_t>(dual.matrix.empty() ? 0 : dual.matrix.front().size());
  file.begin(level.name + ".matrix", ElementType::f32, {blocks, entries});
  for (const std::vector<float>& matrix : dual.matrix) file.append(std::as_bytes(std::span(matrix)));

  std::vector<std::uint16_t> items;
  std::vector<std::int32_t> in_block;
  std::vector<float> price;
  for (std::size_t b = 0; b < dual.triangles.size(); ++b)
    for (const DualValues::Triangle& t : dual.triangles[b]) {
      items.insert(items.end(), {t.i, t.j, t.q});
      in_block.push_back(static_cast<std::int32_t>(b));
      price.push_back(t.price);
    }
  const auto triangles = static_cast<std::int64_t>(price.size());
  add(file, level.name + ".triangle_items", ElementType::u16, {triangles, 3}, items);
  add(file, level.name + ".triangle_block", ElementType::i32, {triangles}, in_block);
  add(file, level.name + ".triangle_price", ElementType::f32, {triangles}, price);

  if (!dual.load_price.empty()) {
    std::vector<float> load;
    for (const std::vector<float>& layer : dual.load_price) load.insert(load.end(), layer.begin(), layer.end());
    add(file, level.name + ".load_price", ElementType::f32,
        {static_cast<std::int64_t>(dual.load_price.size()), static_cast<std::int64_t>(dual.load_price.front().size())},
        load);
  }
  file.metadata(level.name + ".parts", std::to_string(level.parts));
  file.metadata(level.name + ".capacity", std::to_string(level.capacity));
}

/// Rows of (experts, rank price, node price); a choice's facet is its number among those of as many experts.
void add_facets(SafetensorsWriter& file, const std::string& name, const std::vector<std::vector<RowFacet>>& facets) {
  std::vector<double> rows;
  for (std::size_t experts = 0; experts < facets.size(); ++experts)
    for (const RowFacet& facet : facets[experts])
      rows.insert(rows.end(), {static_cast<double>(experts), facet.rank_price, facet.node_price});
  add(file, name, ElementType::f64, {static_cast<std::int64_t>(rows.size() / 3), 3}, rows);
}

void add_choices(SafetensorsWriter& file, const std::vector<std::vector<RowChoice>>& choices, int layers) {
  std::vector<std::uint16_t> members, facet;
  for (const auto& trace : choices)
    for (const RowChoice& choice : trace) {
      members.push_back(choice.members);
      facet.push_back(choice.facet);
    }
  const Shape shape = {static_cast<std::int64_t>(members.size()) / layers, layers};
  add(file, "members", ElementType::u16, shape, members);
  add(file, "facet", ElementType::u16, shape, facet);
}

/// Reads back as the same number.
std::string exact_text(double value) {
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

}  // namespace

void write_certificate(const std::filesystem::path& path, const Problem& problem, const Bound& bound) {
  SafetensorsWriter file(path);
  file.metadata("format", "coterie.certificate/1");
  file.metadata("objective", std::string(name_of(problem.objective)));
  file.metadata("kind", bound.kind);
  file.metadata("bound", exact_text(bound.value));
  file.metadata("layers", std::to_string(problem.layers()));
  file.metadata("experts", std::to_string(problem.experts()));
  file.metadata("replicas", std::to_string(problem.replicas));
  file.metadata("equal_counts", problem.equal_counts ? "true" : "false");
  if (bound.dual) {
    for (const DualCertificate::Level& level : bound.dual->levels) add_level(file, level);
    if (!bound.dual->choices.empty()) {
      add_facets(file, "first_facets", bound.dual->first_facets);
      add_facets(file, "onward_facets", bound.dual->onward_facets);
      add_choices(file, bound.dual->choices, problem.layers());
    }
  }
  file.finish();
}

}  // namespace coterie
