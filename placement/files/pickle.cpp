#include "placement/files/pickle.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>

namespace coterie {
namespace {

/// The names that Python's pickletools gives them.
// clang-format off
enum Opcode : std::uint8_t {
  kMark = '(', kStop = '.', kPop = '0', kPopMark = '1', kDup = '2',
  kNone = 'N', kNewTrue = 0x88, kNewFalse = 0x89,
  kBinInt = 'J', kBinInt1 = 'K', kBinInt2 = 'M', kLong1 = 0x8a, kLong4 = 0x8b, kBinFloat = 'G',
  kBinUnicode = 'X', kShortBinUnicode = 0x8c, kBinUnicode8 = 0x8d,
  kBinString = 'T', kShortBinString = 'U', kBinBytes = 'B', kShortBinBytes = 'C', kBinBytes8 = 0x8e, kByteArray8 = 0x96,
  kEmptyTuple = ')', kTuple = 't', kTuple1 = 0x85, kTuple2 = 0x86, kTuple3 = 0x87,
  kEmptyList = ']', kList = 'l', kAppend = 'a', kAppends = 'e',
  kEmptyDict = '}', kDict = 'd', kSetItem = 's', kSetItems = 'u',
  kEmptySet = 0x8f, kAddItems = 0x90, kFrozenSet = 0x91,
  kGlobal = 'c', kStackGlobal = 0x93, kReduce = 'R', kNewObj = 0x81, kNewObjEx = 0x92, kBuild = 'b', kBinPersId = 'Q',
  kProto = 0x80, kFrame = 0x95,
  kBinPut = 'q', kLongBinPut = 'r', kMemoize = 0x94, kBinGet = 'h', kLongBinGet = 'j',
};
// clang-format on

}  // namespace

/// The stack machine that a pickle is a program of.
class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> bytes, const std::string& where, PickleDocument& document)
      : bytes_(bytes), where_(where), document_(document) {}

  const Pickled* run() {
    for (;;) {
      const auto code = number<std::uint8_t>();
      if (code == kStop) return pop();
      if (!constant(code) && !container(code) && !object(code) && !memory(code))
        throw error("opcode " + std::to_string(code) + ", which a plain pickle does not have");
    }
  }

 private:
  [[nodiscard]] InputError error(const std::string& what) const {
    return InputError(where_ + ": pickle: found " + what + " at byte " + std::to_string(at_));
  }

  std::span<const std::byte> take(std::uint64_t size) {
    if (size > bytes_.size() - at_) throw error("the end of the file");
    at_ += size;
    return bytes_.subspan(at_ - size, size);
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string text(std::uint64_t size) {
    const auto bytes = take(size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::string line() {
    std::string characters;
    for (char c = number<char>(); c != '\n'; c = number<char>()) characters += c;
    return characters;
  }
  std::int64_t long_integer(std::uint64_t size) {
    if (size > 8) throw error("an integer of " + std::to_string(size) + " bytes");
    std::uint64_t value = 0;
    const auto bytes = take(size);
    for (std::size_t i = size; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(bytes[i]);
    if (size > 0 && size < 8 && (value >> (8 * size - 1) & 1U) != 0) value |= ~std::uint64_t{0} << (8 * size);
    return static_cast<std::int64_t>(value);
  }
  double big_endian_double() { return std::bit_cast<double>(__builtin_bswap64(number<std::uint64_t>())); }

  // The stack. These, as the opcodes below, answer true so that an opcode is one line.

  template <class T>
  bool push(T value) {
    document_.values_.push_back(std::make_unique<Pickled>(Pickled{std::move(value)}));
    stack_.push_back(document_.values_.back().get());
    return true;
  }
  Pickled* top() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) throw error("an empty stack");
    return stack_.back();
  }
  Pickled* pop() {
    Pickled* const value = top();
    stack_.pop_back();
    return value;
  }
  PickledItems pop_items(std::size_t count) {
    PickledItems items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }
  /// Takes what stands above the last mark.
  PickledItems pop_mark() {
    if (marks_.empty()) throw error("no mark");
    PickledItems items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  bool mark() {
    marks_.push_back(stack_.size());
    return true;
  }
  /// Fills the list or dictionary on top; an object that fills itself stays as it is.
  bool append(const PickledItems& items) {
    if (auto* const list = std::get_if<PickledList>(&top()->value))
      list->items.insert(list->items.end(), items.begin(), items.end());
    return true;
  }
  bool set(const PickledItems& items) {
    if (items.size() % 2 != 0) throw error("a key without value");
    if (auto* const dict = std::get_if<PickledDict>(&top()->value))
      for (std::size_t i = 0; i < items.size(); i += 2) dict->items.emplace_back(items[i], items[i + 1]);
    return true;
  }

  bool constant(std::uint8_t code) {
    // clang-format off
    switch (code) {
      case kNone:     return push(std::monostate{});
      case kNewTrue:  return push(true);
      case kNewFalse: return push(false);
      case kBinInt:   return push(std::int64_t{number<std::int32_t>()});
      case kBinInt1:  return push(std::int64_t{number<std::uint8_t>()});
      case kBinInt2:  return push(std::int64_t{number<std::uint16_t>()});
      case kLong1:    return push(long_integer(number<std::uint8_t>()));
      case kLong4:    return push(long_integer(number<std::uint32_t>()));
      case kBinFloat: return push(big_endian_double());
      case kShortBinUnicode: case kShortBinString: case kShortBinBytes: return push(text(number<std::uint8_t>()));
      case kBinUnicode:      case kBinString:      case kBinBytes:      return push(text(number<std::uint32_t>()));
      case kBinUnicode8:     case kByteArray8:     case kBinBytes8:     return push(text(number<std::uint64_t>()));
      default: return false;
    }
    // clang-format on
  }

  bool container(std::uint8_t code) {
    // clang-format off
    switch (code) {
      case kMark:       return mark();
      case kEmptyTuple: return push(PickledTuple{});
      case kTuple1:     return push(PickledTuple{pop_items(1)});
      case kTuple2:     return push(PickledTuple{pop_items(2)});
      case kTuple3:     return push(PickledTuple{pop_items(3)});
      case kTuple: case kFrozenSet: return push(PickledTuple{pop_mark()});
      case kEmptyList:  return push(PickledList{});
      case kList:       return push(PickledList{pop_mark()});
      case kAppend:     return append(pop_items(1));
      case kAppends: case kAddItems: return append(pop_mark());
      case kEmptySet:   return push(PickledList{});
      case kEmptyDict:  return push(PickledDict{});
      case kDict:       { const PickledItems all = pop_mark(); return push(PickledDict{}) && set(all); }
      case kSetItem:    return set(pop_items(2));
      case kSetItems:   return set(pop_mark());
      default: return false;
    }
    // clang-format on
  }

  bool object(std::uint8_t code) {
    // clang-format off
    switch (code) {
      case kGlobal:      { const std::string module = line(); return push(PickledGlobal{module + "." + line()}); }
      case kStackGlobal: { const auto names = pop_items(2); return push(PickledGlobal{name(names[0]) + "." + name(names[1])}); }
      case kReduce: case kNewObj: { const auto call = pop_items(2); return push(PickledCall{call[0], call[1]}); }
      case kNewObjEx:    { const auto call = pop_items(3); return push(PickledCall{call[0], call[1]}); }
      case kBuild:       pop(); top(); return true;  // the state of an object that is not made
      case kBinPersId:   return push(PickledReference{pop()});
      default: return false;
    }
    // clang-format on
  }
  std::string name(const Pickled* value) {
    const auto* const characters = std::get_if<std::string>(&value->value);
    if (characters == nullptr) throw error("a name that is no text");
    return *characters;
  }

  bool memory(std::uint8_t code) {
    // clang-format off
    switch (code) {
      case kProto:       number<std::uint8_t>(); return true;
      case kFrame:       number<std::uint64_t>(); return true;
      case kPop:         pop(); return true;
      case kPopMark:     pop_mark(); return true;
      case kDup:         stack_.push_back(top()); return true;
      case kBinPut:      return keep(number<std::uint8_t>());
      case kLongBinPut:  return keep(number<std::uint32_t>());
      case kMemoize:     return keep(static_cast<std::uint32_t>(memo_.size()));
      case kBinGet:      return recall(number<std::uint8_t>());
      case kLongBinGet:  return recall(number<std::uint32_t>());
      default: return false;
    }
    // clang-format on
  }
  bool keep(std::uint32_t key) {
    memo_[key] = top();
    return true;
  }
  bool recall(std::uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) throw error("a value that was never kept");
    stack_.push_back(found->second);
    return true;
  }

  std::span<const std::byte> bytes_;
  const std::string& where_;
  PickleDocument& document_;
  std::size_t at_ = 0;
  std::vector<Pickled*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint32_t, Pickled*> memo_;
};

PickleDocument::PickleDocument(std::span<const std::byte> bytes, const std::string& where) {
  root_ = PickleMachine(bytes, where, *this).run();
}

}  // namespace coterie
