#include "placement/mapped_file.hpp"

#include "placement/input_error.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace coterie {

MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  const auto cannot_open = [&] { return InputError(path_.string() + ": cannot open: " + std::strerror(errno)); };
  const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw cannot_open();
  struct stat info {};
  const bool regular = ::fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode);
  size_ = regular ? static_cast<std::size_t>(info.st_size) : 0;
  void* const memory = size_ == 0 ? nullptr : ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
  const int reason = errno;
  ::close(descriptor);
  if (!regular) throw InputError(path_.string() + ": is not a regular file");
  errno = reason;
  if (memory == MAP_FAILED) throw cannot_open();
  base_ = static_cast<std::byte*>(memory);
}

MappedFile::~MappedFile() {
  if (base_ != nullptr) ::munmap(base_, size_);
}

void MappedFile::release(std::span<const std::byte> bytes) const noexcept {
  if (bytes.empty()) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<std::size_t>(bytes.data() - base_) / page * page;
  ::madvise(base_ + offset, static_cast<std::size_t>(bytes.data() + bytes.size() - (base_ + offset)), MADV_DONTNEED);
}

}  // namespace coterie
