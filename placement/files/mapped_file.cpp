#include "placement/files/mapped_file.hpp"

#include "placement/input_error.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace coterie {

MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  const auto cannot_open = [&] { return InputError(path_.string() + ": cannot open: " + std::strerror(errno)); };
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) throw cannot_open();
  struct stat info {};
  const bool regular = ::fstat(descriptor_, &info) == 0 && S_ISREG(info.st_mode);
  size_ = regular ? static_cast<std::size_t>(info.st_size) : 0;
  void* const memory = size_ == 0 ? nullptr : ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (!regular || memory == MAP_FAILED) {
    const int reason = errno;
    ::close(descriptor_);
    errno = reason;
    throw regular ? cannot_open() : InputError(path_.string() + ": is not a regular file");
  }
  base_ = static_cast<std::byte*>(memory);
}

MappedFile::~MappedFile() {
  if (base_ != nullptr) ::munmap(base_, size_);
  ::close(descriptor_);
}

void MappedFile::read(std::span<const std::byte> bytes, std::byte* out) const {
  for (auto at = static_cast<std::size_t>(bytes.data() - base_); !bytes.empty();) {
    const ssize_t n = ::pread(descriptor_, out, bytes.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      throw std::runtime_error(path_.string() + ": cannot read " + std::to_string(bytes.size()) + " bytes at " +
                               std::to_string(at) + ": " + (n == 0 ? "the file became shorter" : std::strerror(errno)));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    out += n;
    at += static_cast<std::size_t>(n);
  }
}

void MappedFile::release(std::span<const std::byte> bytes) const noexcept {
  if (bytes.empty()) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<std::size_t>(bytes.data() - base_) / page * page;
  ::madvise(base_ + offset, static_cast<std::size_t>(bytes.data() + bytes.size() - (base_ + offset)), MADV_DONTNEED);
}

}  // namespace coterie
