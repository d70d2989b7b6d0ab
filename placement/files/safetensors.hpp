// Reading and writing safetensors files: traces, certificates and checkpoints. Format: an 8-byte little-endian header
// length, a JSON header (name -> dtype, shape, byte offsets), then the raw little-endian arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

enum class ElementType {
  boolean,
  u8,
  i8,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  u16,
  i16,
  f16,
  bf16,
  u32,
  i32,
  f32,
  u64,
  i64,
  f64
};

/// Bytes of one element.
[[nodiscard]] std::size_t size_of(ElementType type) noexcept;
/// The format's own spelling: "F32", "BF16", "U8", ...
[[nodiscard]] std::string_view name_of(ElementType type) noexcept;

using Shape = std::vector<std::int64_t>;
/// "[3, 4]"
[[nodiscard]] std::string to_string(const Shape& shape);

/// One array of a file, row-major. `bytes` is a view into the mapped file; alignment is not guaranteed.
struct TensorView {
  ElementType type{};
  Shape shape;
  std::span<const std::byte> bytes;
};

/// A safetensors file, memory-mapped read-only. Every offset, shape and size is checked when it is opened.
class SafetensorsFile {
 public:
  /// Throws InputError when the file is missing, truncated or malformed (overlapping or out-of-range offsets, a size
  /// that contradicts the shape, a header longer than the file or than 100 MB).
  explicit SafetensorsFile(std::filesystem::path path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  [[nodiscard]] const std::filesystem::path& path() const noexcept;
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept;
  [[nodiscard]] const std::map<std::string, TensorView>& tensors() const noexcept;
  [[nodiscard]] bool contains(const std::string& name) const noexcept;
  /// Throws InputError that names the file and the tensor when there is none of that name.
  [[nodiscard]] const TensorView& at(const std::string& name) const;
  /// Copies `bytes`, a part of a tensor's, to `out` without making the file's pages this process' memory.
  /// Throws std::runtime_error when the file can't be read.
  void read(std::span<const std::byte> bytes, std::byte* out) const;
  /// Lets the operating system drop the pages of `bytes`, so that they no longer count in this process' memory.
  /// They may be read again.
  void release(std::span<const std::byte> bytes) const noexcept;

 private:
  struct Mapping;
  std::unique_ptr<Mapping> mapping_;
};

/// Writes a safetensors file of any size without holding it in memory: arrays are spooled beside the target and put
/// together by `finish`, which replaces `path` in one step. Without `finish` nothing is left behind.
class SafetensorsWriter {
 public:
  /// Throws InputError when the folder can't be written.
  explicit SafetensorsWriter(const std::filesystem::path& path);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Appends a whole array. Throws InputError when the disk is full, std::logic_error when the name is taken or the
  /// bytes contradict the shape.
  void add(const std::string& name, ElementType type, const Shape& shape, std::span<const std::byte> bytes);
  /// The same in pieces: `begin`, then `append` until the shape is filled.
  void begin(const std::string& name, ElementType type, const Shape& shape);
  void append(std::span<const std::byte> bytes);
  void metadata(const std::string& key, const std::string& value);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coterie
