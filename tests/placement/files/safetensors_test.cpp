#include "placement/files/safetensors.hpp"

#include "placement/input_error.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

namespace coterie {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::string with_header(const std::string& header, std::size_t data) {
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i));
  return length + header + std::string(data, 'x');
}

/// The message that opening a file with this header and so many bytes of data gives; "" when it opens.
std::string refusal(const std::string& header, std::size_t data) {
  const ScratchFolder folder;
  write_bytes(folder / "f.safetensors", with_header(header, data));
  try {
    const SafetensorsFile file(folder / "f.safetensors");
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

TEST(Safetensors, WhatIsWrittenIsRead) {
  const ScratchFolder folder;
  const std::vector<float> floats{1, 2, 3, 4, 5, 6};
  const std::vector<std::uint8_t> small{7, 8, 9};
  {
    SafetensorsWriter writer(folder / "f.safetensors");
    writer.metadata("who", "a \"quoted\" name, \xc3\xa4");
    writer.add("small", ElementType::u8, {3}, bytes_of(small));
    writer.begin("floats", ElementType::f32, {2, 3});
    writer.append(bytes_of(floats).first(10));
    writer.append(bytes_of(floats).subspan(10));
    writer.add("nothing", ElementType::i64, {4, 0}, {});
    writer.add("scalar", ElementType::u8, {}, bytes_of(small).first(1));
    writer.finish();
  }
  const SafetensorsFile file(folder / "f.safetensors");
  EXPECT_EQ(file.metadata().at("who"), "a \"quoted\" name, \xc3\xa4");
  EXPECT_EQ(file.tensors().size(), 4U);
  EXPECT_EQ(file.at("floats").type, ElementType::f32);
  EXPECT_EQ(file.at("floats").shape, (Shape{2, 3}));
  EXPECT_TRUE(std::ranges::equal(file.at("floats").bytes, bytes_of(floats)));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.at("floats").bytes.data()) % 8, 0U) << "large elements stand aligned";
  EXPECT_TRUE(std::ranges::equal(file.at("small").bytes, bytes_of(small)));
  EXPECT_EQ(file.at("nothing").shape, (Shape{4, 0}));
  EXPECT_EQ(file.at("scalar").bytes.size(), 1U);
  file.release(file.at("floats").bytes);
  EXPECT_TRUE(std::ranges::equal(file.at("floats").bytes, bytes_of(floats))) << "released pages come back";
  EXPECT_EQ(folder.files(), 1U);
}

TEST(Safetensors, AnUnfinishedWriterLeavesTheOldFile) {
  const ScratchFolder folder;
  write_bytes(folder / "f.safetensors", "old");
  {
    SafetensorsWriter writer(folder / "f.safetensors");
    writer.add("a", ElementType::u8, {3}, bytes_of(std::vector<std::uint8_t>{1, 2, 3}));
  }
  EXPECT_EQ(read_bytes(folder / "f.safetensors"), "old");
  EXPECT_EQ(folder.files(), 1U);
}

TEST(Safetensors, AnArrayMustBeFilledAndNamedOnce) {
  const ScratchFolder folder;
  SafetensorsWriter writer(folder / "f.safetensors");
  const auto three = std::vector<std::uint8_t>{1, 2, 3};
  EXPECT_THROW(writer.add("long", ElementType::u8, {2}, bytes_of(three)), std::logic_error);
  SafetensorsWriter other(folder / "g.safetensors");
  other.add("a", ElementType::u8, {3}, bytes_of(three));
  EXPECT_THROW(other.add("a", ElementType::u8, {3}, bytes_of(three)), std::logic_error);
  other.begin("short", ElementType::u8, {4});
  EXPECT_THROW(other.finish(), std::logic_error);
}

TEST(Safetensors, AFolderThatIsNotThereIsRefused) {
  const ScratchFolder folder;
  EXPECT_THROW(SafetensorsWriter(folder / "no" / "f.safetensors"), InputError);
  EXPECT_THROW(SafetensorsFile(folder / "none.safetensors"), InputError);
  EXPECT_THROW(SafetensorsFile(folder / ""), InputError) << "a folder is no file";
}

TEST(Safetensors, AFullDiskIsReportedAndLeavesNothing) {
  const ScratchFolder folder;
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 1000;
  setrlimit(RLIMIT_FSIZE, &small);
  {
    SafetensorsWriter writer(folder / "f.safetensors");
    EXPECT_THROW(writer.add("a", ElementType::u8, {5000}, bytes_of(std::vector<std::uint8_t>(5000))), InputError);
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(folder.is_empty());

  SafetensorsWriter device("/dev/full");
  device.add("a", ElementType::u8, {1}, bytes_of(std::vector<std::uint8_t>(1)));
  EXPECT_THROW(device.finish(), InputError);
}

TEST(Safetensors, BadHeadersAreRefusedWithTheReason) {
  const auto tensor = [](const std::string& fields) { return R"({"a":{)" + fields + "}}"; };
  EXPECT_EQ(refusal(tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,4])"), 4), "");
  const std::vector<std::tuple<std::string, std::size_t, std::string>> cases{
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,4])"), 5, "size of the data"},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,4])"), 3, "data_offsets[1]"},
      {tensor(R"("dtype":"U8","shape":[5],"data_offsets":[0,4])"), 4, "found 4 bytes, expected 5 bytes"},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[1,5])"), 5, "where the array before it ends"},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[4,0])"), 4, "data_offsets[1]"},
      {tensor(R"("dtype":"U8","shape":[-4],"data_offsets":[0,4])"), 4, "shape[0]"},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0.0,4])"), 4, "data_offsets[0]"},
      {tensor(R"("dtype":"U7","shape":[4],"data_offsets":[0,4])"), 4, "dtype"},
      {tensor(R"("dtype":8,"shape":[4],"data_offsets":[0,4])"), 4, "dtype"},
      {tensor(R"("shape":[4],"data_offsets":[0,4])"), 4, "dtype"},
      {tensor(R"("dtype":"U8","shape":4,"data_offsets":[0,4])"), 4, "shape"},
      {tensor(R"("dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0, "2^63"},
      {tensor(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0])"), 0, "shape[0]"},
      {tensor(R"("dtype":"U8","shape":[0],"data_offsets":[0,0,0])"), 0, "two offsets"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       3, "tensor b"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
       2, "twice"},
      {R"({"__metadata__":{"k":3}})", 0, "__metadata__.k"},
      {R"({"__metadata__":[]})", 0, "__metadata__"},
      {"[]", 0, "expected a JSON object"},
      {"{", 0, "not valid JSON"},
      {"\"\xff\"", 0, "not valid JSON"},
      {std::string(5000, '['), 0, "nested"},
  };
  for (const auto& [header, data, part] : cases) {
    const std::string message = refusal(header, data);
    EXPECT_NE(message.find("f.safetensors"), std::string::npos) << header.substr(0, 100) << "\n -> " << message;
    EXPECT_NE(message.find(part), std::string::npos) << header.substr(0, 100) << "\n -> " << message;
    EXPECT_EQ(message.find('\xff'), std::string::npos) << "bytes that are no text";
  }
}

TEST(Safetensors, AHeaderOfAbsurdLengthIsRefused) {
  const ScratchFolder folder;
  for (const auto length : {std::uint64_t{100}, std::uint64_t{1} << 40, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    std::string bytes(20, '{');
    std::memcpy(bytes.data(), &length, 8);
    write_bytes(folder / "f.safetensors", bytes);
    EXPECT_THROW(SafetensorsFile(folder / "f.safetensors"), InputError) << length;
  }
}

TEST(Safetensors, APointerOfGitLfsIsNamed) {  // what a clone has without git-lfs
  const ScratchFolder folder;
  write_bytes(folder / "f.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
  try {
    const SafetensorsFile file(folder / "f.safetensors");
    ADD_FAILURE();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("git lfs pull"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace coterie
