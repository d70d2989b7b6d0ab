#include "runtime/checkpoint.hpp"

#include "placement/digest.hpp"
#include "placement/half.hpp"
#include "placement/input_error.hpp"
#include "runtime/config_file.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <set>

namespace coterie {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// Whether the rows lie one after the other.
bool dense(const WeightRef& ref) {
  return ref.col_stride == 1 && ref.row_stride == ref.cols;
}

/// From the first to the last number of these rows.
std::span<const std::byte> span_of(const WeightRef& ref, std::int64_t first, std::int64_t count,
                                   const TensorView& tensor) {
  const std::int64_t begin = ref.offset + first * ref.row_stride;
  const std::int64_t end = begin + (count - 1) * ref.row_stride + (ref.cols - 1) * ref.col_stride + 1;
  const auto number = static_cast<std::int64_t>(size_of(tensor.type));
  return tensor.bytes.subspan(static_cast<std::size_t>(begin * number),
                              static_cast<std::size_t>((end - begin) * number));
}

/// Rows [first, first + count) as f32, dense.
void read_rows(const WeightRef& ref, std::int64_t first, std::int64_t count, const TensorView& tensor, float* out) {
  if (dense(ref)) return expand(tensor.type, span_of(ref, first, count, tensor), out);
  if (ref.col_stride == 1) {
    for (std::int64_t r = 0; r < count; ++r) {
      expand(tensor.type, span_of(ref, first + r, 1, tensor), out + r * ref.cols);
    }
    return;
  }
  std::vector<float> column(static_cast<std::size_t>((count - 1) * ref.row_stride + 1));
  for (std::int64_t c = 0; c < ref.cols; ++c) {  // stored column after column: read in that order
    const WeightRef one{{}, {}, ref.rows, 1, ref.offset + c * ref.col_stride, ref.row_stride, 1};
    expand(tensor.type, span_of(one, first, count, tensor), column.data());
    for (std::int64_t r = 0; r < count; ++r)
      out[r * ref.cols + c] = column[static_cast<std::size_t>(r * ref.row_stride)];
  }
}

}  // namespace

void expand(ElementType type, std::span<const std::byte> bytes, float* out) {
  const std::size_t n = bytes.size() / size_of(type);
  switch (type) {
    case ElementType::f32:
      std::memcpy(out, bytes.data(), bytes.size());
      return;
    case ElementType::bf16:
      for (std::size_t i = 0; i < n; ++i) out[i] = from_bf16(load<std::uint16_t>(&bytes[2 * i]));
      return;
    case ElementType::f16:
      for (std::size_t i = 0; i < n; ++i) out[i] = Half::from_bits(load<std::uint16_t>(&bytes[2 * i]));
      return;
    default:
      throw std::invalid_argument("no expansion of " + std::string(name_of(type)) + " to f32");
  }
}

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
    if (std::filesystem::path(file).filename() != file) map->fail(tensor, "the name of a file in the same folder");
    names.insert(file);
  }
  files_.reserve(names.size());  // entries point into it
  for (const std::string& file : names) files_.emplace_back(directory / file);
  for (const std::string& tensor : map->fields()) {
    const std::filesystem::path path = directory / map->text(tensor);
    const auto file = std::find_if(files_.begin(), files_.end(), [&](const auto& f) { return f.path() == path; });
    tensors_[tensor] = {&*file, &file->at(tensor)};
  }
}

const Checkpoint::Entry& Checkpoint::find(const WeightRef& ref) const {
  const auto it = tensors_.find(ref.tensor);
  if (it == tensors_.end()) {
    throw bad_field(directory_.string(), ref.tensor, "no such tensor in the checkpoint",
                    "a tensor of shape " + to_string(ref.stored));
  }
  return it->second;
}

void Checkpoint::check(const WeightRef& ref) const {
  const Entry& entry = find(ref);
  const std::string where = entry.file->path().string();
  if (entry.tensor->shape != ref.stored) {
    throw bad_field(where, ref.tensor, "shape " + to_string(entry.tensor->shape), "shape " + to_string(ref.stored));
  }
  const ElementType type = entry.tensor->type;
  if (type != ElementType::f32 && type != ElementType::f16 && type != ElementType::bf16) {
    throw bad_field(where, ref.tensor, "type " + std::string(name_of(type)), "F32, F16 or BF16");
  }
}

WeightSource Checkpoint::source(const StackedRef& refs) const {
  WeightSource out;
  out.cols = refs.front().cols;
  out.fits_bf16 = true;
  for (const WeightRef& ref : refs) {
    out.rows += ref.rows;
    out.fits_bf16 = out.fits_bf16 && find(ref).tensor->type == ElementType::bf16;
  }
  out.read = [this, refs](std::int64_t first, std::int64_t count, float* to) {
    for (const WeightRef& ref : refs) {
      const std::int64_t begin = std::clamp<std::int64_t>(first, 0, ref.rows);
      const std::int64_t end = std::clamp<std::int64_t>(first + count, 0, ref.rows);
      first -= ref.rows;
      if (begin >= end) continue;
      const Entry& entry = find(ref);
      read_rows(ref, begin, end - begin, *entry.tensor, to);
      // Rows that lie apart share pages with rows still to come.
      if (dense(ref)) entry.file->release(span_of(ref, begin, end - begin, *entry.tensor));
      if (!dense(ref) && end == ref.rows) entry.file->release(span_of(ref, 0, ref.rows, *entry.tensor));
      to += (end - begin) * ref.cols;
    }
  };
  return out;
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
