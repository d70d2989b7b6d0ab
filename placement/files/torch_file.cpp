#include "placement/files/torch_file.hpp"

#include "placement/files/half.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace coterie {
namespace {

std::string folder_of_pickle(const ZipFile& zip) {
  for (const auto& [name, bytes] : zip.entries())
    if (name.ends_with("/data.pkl")) return name.substr(0, name.size() - std::string("data.pkl").size());
  throw bad_field(zip.path().string(), "zip archive", "no data.pkl", "a file that torch.save wrote");
}

PickleDocument read_pickle(const ZipFile& zip, const std::string& folder) {
  const auto order = zip.entries().find(folder + "byteorder");
  if (order != zip.entries().end()) {
    const std::string text(reinterpret_cast<const char*>(order->second.data()), order->second.size());
    if (text != "little") throw bad_field(zip.path().string(), "byteorder", text, "little");
  }
  return {zip.entries().at(folder + "data.pkl"), zip.path().string()};
}

template <class T>
std::int32_t element(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  if constexpr (sizeof(T) == 8)
    if (value < std::numeric_limits<std::int32_t>::min() || value > std::numeric_limits<std::int32_t>::max())
      return std::numeric_limits<std::int32_t>::min();
  return static_cast<std::int32_t>(value);
}

std::uint16_t bits_of(const std::byte* at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}

template <class T>
float number(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return static_cast<float>(value);
}

template <class T>
struct StorageType {
  std::string_view name;
  std::size_t size;
  T (*read)(const std::byte*);
};
/// The least int32 stands for a number that doesn't fit.
constexpr StorageType<std::int32_t> kIntegers[]{
    {"torch.LongStorage", 8, element<std::int64_t>},  {"torch.IntStorage", 4, element<std::int32_t>},
    {"torch.ShortStorage", 2, element<std::int16_t>}, {"torch.CharStorage", 1, element<std::int8_t>},
    {"torch.ByteStorage", 1, element<std::uint8_t>},
};
constexpr StorageType<float> kFloats[]{
    {"torch.DoubleStorage", 8, number<double>},
    {"torch.FloatStorage", 4, number<float>},
    {"torch.HalfStorage", 2, [](const std::byte* at) { return static_cast<float>(Half::from_bits(bits_of(at))); }},
    {"torch.BFloat16Storage", 2,
     [](const std::byte* at) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits_of(at)) << 16); }},
};

template <class T>
const T* as(const Pickled* value) {
  return value == nullptr ? nullptr : std::get_if<T>(&value->value);
}

/// Item `i` of a tuple or list; nullptr when there is none.
const Pickled* item(const Pickled* value, std::size_t i) {
  if (value == nullptr) return nullptr;
  const auto all = items(*value);
  return all && i < all->size() ? (*all)[i] : nullptr;
}

std::optional<std::vector<std::int64_t>> numbers(const Pickled* value) {
  const auto all = value == nullptr ? std::nullopt : items(*value);
  if (!all) return std::nullopt;
  std::vector<std::int64_t> result;
  for (const Pickled* const one : *all) {
    const auto* const number = as<std::int64_t>(one);
    if (number == nullptr || *number < 0) return std::nullopt;
    result.push_back(*number);
  }
  return result;
}

/// What torch._utils._rebuild_tensor_v2 is called with: (storage, offset, size, stride, ...), numbers in elements; a
/// storage is referred to as ("storage", type, key, device, elements).
struct TensorCall {
  std::string type;
  std::string key;
  std::int64_t offset = 0;
  Shape shape;
  std::vector<std::int64_t> stride;
};

std::optional<TensorCall> tensor_call(const Pickled& value) {
  const auto* const call = as<PickledCall>(&value);
  const auto* const callee = call == nullptr ? nullptr : as<PickledGlobal>(call->callee);
  if (callee == nullptr || !callee->name.starts_with("torch._utils._rebuild_tensor")) return std::nullopt;
  const auto* const storage = as<PickledReference>(item(call->arguments, 0));
  const auto* const type = storage == nullptr ? nullptr : as<PickledGlobal>(item(storage->id, 1));
  const auto* const key = storage == nullptr ? nullptr : as<std::string>(item(storage->id, 2));
  const auto* const offset = as<std::int64_t>(item(call->arguments, 1));
  const auto shape = numbers(item(call->arguments, 2));
  const auto stride = numbers(item(call->arguments, 3));
  if (type == nullptr || key == nullptr || offset == nullptr || !shape || !stride || shape->size() != stride->size())
    return std::nullopt;
  return TensorCall{type->name, *key, *offset, *shape, *stride};
}

/// Elements of a tensor; nothing when one lies outside a storage of `available` elements.
std::optional<std::int64_t> count_elements(const TensorCall& tensor, std::int64_t available) {
  std::int64_t count = 1;
  std::int64_t last = tensor.offset;
  for (std::size_t d = 0; d < tensor.shape.size(); ++d) {
    if (tensor.shape[d] == 0) return 0;
    std::int64_t step = 0;
    if (__builtin_mul_overflow(count, tensor.shape[d], &count) ||
        __builtin_mul_overflow(tensor.shape[d] - 1, tensor.stride[d], &step) ||
        __builtin_add_overflow(last, step, &last))
      return std::nullopt;
  }
  // A stride of 0 repeats elements; more of them than the storage has is nothing that a recorder writes.
  if (tensor.offset < 0 || last >= available || count > available) return std::nullopt;
  return count;
}

/// The elements of `tensor`, row by row, whatever its strides.
template <class T, std::size_t N>
std::vector<T> elements_of(const ZipFile& zip, const std::string& folder, const TensorCall& tensor,
                           const std::string& field, const StorageType<T> (&types)[N], const std::string& expected) {
  const std::string where = zip.path().string();
  const auto* const type =
      std::find_if(std::begin(types), std::end(types), [&](const auto& t) { return t.name == tensor.type; });
  if (type == std::end(types)) throw bad_field(where, field, tensor.type, expected);
  const auto storage = zip.entries().find(folder + "data/" + tensor.key);
  if (storage == zip.entries().end())
    throw bad_field(where, field, "no storage '" + tensor.key + "'", "the tensor's data in the archive");
  const auto bytes = storage->second;
  const auto count = count_elements(tensor, static_cast<std::int64_t>(bytes.size() / type->size));
  if (!count) throw bad_field(where, field, "shape " + to_string(tensor.shape), "elements inside the storage");

  std::vector<T> values(static_cast<std::size_t>(*count));
  std::vector<std::int64_t> index(tensor.shape.size());
  std::int64_t at = tensor.offset;
  for (T& value : values) {
    value = type->read(bytes.data() + at * static_cast<std::int64_t>(type->size));
    for (std::size_t d = index.size(); d-- > 0;) {
      at += tensor.stride[d];
      if (++index[d] < tensor.shape[d]) break;
      at -= tensor.stride[d] * tensor.shape[d];
      index[d] = 0;
    }
  }
  return values;
}

TensorCall demanded(const TorchFile& file, const Pickled& value, const std::string& field) {
  const auto tensor = tensor_call(value);
  if (!tensor) throw bad_field(file.where(), field, "something else", "a tensor");
  return *tensor;
}

}  // namespace

TorchFile::TorchFile(const std::filesystem::path& path)
    : zip_(path), folder_(folder_of_pickle(zip_)), pickle_(read_pickle(zip_, folder_)) {}

IntegerArray TorchFile::integers(const Pickled& value, const std::string& field) const {
  const TensorCall tensor = demanded(*this, value, field);
  IntegerArray array{tensor.shape, elements_of(zip_, folder_, tensor, field, kIntegers, "a tensor of integers")};
  if (std::count(array.values.begin(), array.values.end(), std::numeric_limits<std::int32_t>::min()) > 0)
    throw bad_field(where(), field, "a number beyond 32 bits", "smaller numbers");
  return array;
}

FloatArray TorchFile::floats(const Pickled& value, const std::string& field) const {
  const TensorCall tensor = demanded(*this, value, field);
  return {tensor.shape, elements_of(zip_, folder_, tensor, field, kFloats, "a tensor of floating-point numbers")};
}

const Pickled* find(const Pickled& value, const std::string& key) {
  const auto* const dict = as<PickledDict>(&value);
  if (dict == nullptr) return nullptr;
  for (const auto& [name, member] : dict->items)
    if (const auto* const text = as<std::string>(name); text != nullptr && *text == key) return member;
  return nullptr;
}

std::optional<std::span<const Pickled* const>> items(const Pickled& value) {
  if (const auto* const list = as<PickledList>(&value)) return list->items;
  if (const auto* const tuple = as<PickledTuple>(&value)) return tuple->items;
  return std::nullopt;
}

}  // namespace coterie
