#include "runtime/checkpoint/checkpoint.hpp"

#include "placement/files/digest.hpp"
#include "placement/input_error.hpp"
#include "runtime/checkpoint/config_file.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace coterie {
namespace {

std::string names_of(std::initializer_list<ElementType> types) {
  std::string names;
  for (const ElementType& type : types) {
    names.append(&type == types.begin() ? "" : &type + 1 == types.end() ? " or " : ", ").append(name_of(type));
  }
  return names;
}

std::int64_t divided_up(std::int64_t n, std::int64_t by) {
  return (n + by - 1) / by;
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& directory) : directory_(directory) {
  const std::filesystem::path index = directory / "model.safetensors.index.json";
  const std::filesystem::path single = directory / "model.safetensors";
  if (std::filesystem::exists(index)) {
    add_indexed(directory, index);
  } else if (std::filesystem::exists(single)) {
    add_all_of(single);
  } else {
    throw InputError(directory.string() +
                     ": found neither model.safetensors nor model.safetensors.index.json, expected one of them");
  }
  if (std::filesystem::exists(directory / "config.json")) {
    quantization_ = read_quantization(ConfigFile(directory / "config.json"));
  }
}

void Checkpoint::add_all_of(const std::filesystem::path& path) {
  files_.emplace_back(path);
  for (const auto& [name, tensor] : files_.back().tensors()) tensors_[name] = {&files_.back(), &tensor};
}

void Checkpoint::add_indexed(const std::filesystem::path& directory, const std::filesystem::path& index) {
  const auto map = ConfigFile(index).object("weight_map");
  if (!map) ConfigFile(index).fail("weight_map", "an object of tensor name to file name");
  std::set<std::string> names;
  for (const std::string& tensor : map->fields()) {
    const std::string file = map->text(tensor);
    if (!names.insert(file).second) continue;
    const bool here = std::filesystem::path(file).filename() == file && std::filesystem::exists(directory / file);
    if (!here) map->fail(tensor, "the name of a file in the same folder");
  }
  files_.reserve(names.size());  // entries point into it
  for (const std::string& file : names) files_.emplace_back(directory / file);
  for (const std::string& tensor : map->fields()) {
    const std::filesystem::path path = directory / map->text(tensor);
    const auto file = std::find_if(files_.begin(), files_.end(), [&](const auto& f) { return f.path() == path; });
    tensors_[tensor] = {&*file, &file->at(tensor)};
  }
}

const StoredArray& Checkpoint::find(const std::string& name, const Shape& shape,
                                    std::initializer_list<ElementType> types) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    throw bad_field(directory_.string(), name, "no such tensor in the checkpoint",
                    names_of(types) + " of shape " + to_string(shape));
  }
  const auto& [file, tensor] = it->second;
  const std::string where = file->path().string();
  if (std::find(types.begin(), types.end(), tensor->type) == types.end()) {
    throw bad_field(where, name, "type " + std::string(name_of(tensor->type)), names_of(types));
  }
  if (tensor->shape != shape) {
    throw bad_field(where, name, "shape " + to_string(tensor->shape), "shape " + to_string(shape));
  }
  return it->second;
}

StoredArrays Checkpoint::arrays(const WeightRef& ref) const {
  using Method = Quantization::Method;
  const auto it = tensors_.find(ref.tensor);
  const bool there = it != tensors_.end();
  if (!there && quantization_.method == Method::mxfp4 && tensors_.contains(ref.tensor + "_blocks")) return mxfp4(ref);
  if (there && quantization_.method == Method::fp8 && it->second.tensor->type == ElementType::f8_e4m3) return fp8(ref);
  return {Encoding::plain, find(ref.tensor, ref.stored, {ElementType::f32, ElementType::f16, ElementType::bf16})};
}

StoredArrays Checkpoint::fp8(const WeightRef& ref) const {
  const std::size_t dimensions = ref.stored.size();
  const StoredArray& numbers = find(ref.tensor, ref.stored, {ElementType::f8_e4m3});
  if (dimensions < 2) {
    throw bad_field(numbers.file->path().string(), ref.tensor, "type F8_E4M3", "F32, F16 or BF16 for a vector");
  }
  Shape shape;  // of one number
  std::int64_t block_rows = ref.stored[dimensions - 2];
  std::int64_t block_cols = ref.stored[dimensions - 1];
  const std::string name = ref.tensor + "_scale_inv";
  if (quantization_.block_rows > 0) {
    block_rows = quantization_.block_rows;
    block_cols = quantization_.block_cols;
    shape = ref.stored;
    shape[dimensions - 2] = divided_up(shape[dimensions - 2], block_rows);
    shape[dimensions - 1] = divided_up(shape[dimensions - 1], block_cols);
  } else if (const auto it = tensors_.find(name); it != tensors_.end() && it->second.tensor->shape == Shape{1}) {
    shape = {1};
  }
  const StoredArray& scales =
      find(name, shape, {ElementType::f32, ElementType::bf16, ElementType::f16, ElementType::f8_e8m0, ElementType::u8});
  return {Encoding::fp8, numbers, scales, block_rows, block_cols};
}

StoredArrays Checkpoint::mxfp4(const WeightRef& ref) const {
  constexpr std::int64_t kGroup = 32;
  Shape scales = ref.stored;
  if (scales.back() % kGroup != 0) {
    throw bad_field(directory_.string(), ref.tensor, "shape " + to_string(ref.stored),
                    "rows of a multiple of " + std::to_string(kGroup) + " numbers for MXFP4");
  }
  scales.back() /= kGroup;
  Shape blocks = scales;
  blocks.push_back(kGroup / 2);
  return {Encoding::mxfp4, find(ref.tensor + "_blocks", blocks, {ElementType::u8}),
          find(ref.tensor + "_scales", scales, {ElementType::u8, ElementType::f8_e8m0})};
}

WeightSource Checkpoint::source(const StackedRef& refs) const {
  struct Part {
    WeightRef ref;
    StoredTensor tensor;
  };
  std::vector<Part> parts;
  WeightSource out;
  out.cols = refs.front().cols;
  out.fits_bf16 = true;
  for (const WeightRef& ref : refs) {
    parts.push_back({ref, StoredTensor(arrays(ref))});
    out.rows += ref.rows;
    out.fits_bf16 = out.fits_bf16 && parts.back().tensor.fits_bf16();
  }
  const auto read = [parts = std::move(parts)](std::int64_t first, std::int64_t count, auto* to) {
    for (const auto& [ref, tensor] : parts) {
      const std::int64_t begin = std::clamp<std::int64_t>(first, 0, ref.rows);
      const std::int64_t end = std::clamp<std::int64_t>(first + count, 0, ref.rows);
      first -= ref.rows;
      if (begin >= end) continue;
      tensor.read(ref, begin, end - begin, to);
      to += (end - begin) * ref.cols;
    }
  };
  out.read = read;
  if (out.fits_bf16) out.read_bf16 = read;
  return out;
}

std::int64_t Checkpoint::bytes() const {
  std::int64_t sum = 0;
  for (const auto& [name, array] : tensors_) sum += static_cast<std::int64_t>(array.tensor->bytes.size());
  return sum;
}

std::string Checkpoint::types() const {
  std::set<std::string_view> names;
  for (const auto& [name, array] : tensors_) names.insert(name_of(array.tensor->type));
  std::string list;
  for (const std::string_view name : names) list.append(list.empty() ? "" : ", ").append(name);
  return list;
}

std::string Checkpoint::digest() const {
  std::string text;
  for (const auto& [name, entry] : tensors_) {
    text.append(name).append(" ").append(name_of(entry.tensor->type)).append(to_string(entry.tensor->shape));
    text.append(entry.file->path().filename().string()).append("\n");
  }
  return sha256_of(std::as_bytes(std::span(text)));
}

}  // namespace coterie
