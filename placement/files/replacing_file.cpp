#include "placement/files/replacing_file.hpp"

#include "placement/input_error.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace coterie {
namespace {

namespace fs = std::filesystem;

InputError cannot(const std::string& what, const fs::path& path) {
  return InputError(path.string() + ": cannot " + what + ": " + std::strerror(errno));
}

/// True when something is at `path` that a rename must not replace.
bool is_special(const fs::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode);
}

}  // namespace

ReplacingFile::ReplacingFile(fs::path path) : path_(std::move(path)) {
  if (is_special(path_)) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    std::error_code ignored;
    target_ = fs::is_symlink(path_, ignored) ? place_of(path_) : path_;
    temporary_ = target_;
    temporary_ += ".tmp" + std::to_string(::getpid());
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  }
  if (descriptor_ < 0) throw cannot("write", path_);
}

ReplacingFile::~ReplacingFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void ReplacingFile::write(std::span<const std::byte> bytes) {
  write_all(descriptor_, bytes, path_);
}

void ReplacingFile::commit() {
  if (temporary_.empty()) {
    const int closed = ::close(std::exchange(descriptor_, -1));
    if (closed != 0) throw cannot("write", path_);
    return;
  }
  if (::fsync(descriptor_) != 0) throw cannot("write", path_);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) throw cannot("replace", path_);
  ::close(std::exchange(descriptor_, -1));
}

fs::path place_of(const fs::path& path) {
  constexpr int kMostLinks = 40;  // as many as Linux follows
  std::error_code failed;
  fs::path place = fs::absolute(path, failed);
  for (int links = 0; links < kMostLinks && fs::is_symlink(place, failed); ++links) {
    const fs::path target = fs::read_symlink(place, failed);
    if (failed) break;
    place = place.parent_path() / target;
  }
  const fs::path plain = fs::weakly_canonical(place, failed);
  return plain.empty() ? place : plain;
}

void demand_writable(const fs::path& path) {
  // Opening a pipe or a device could already mean something to who reads it.
  std::error_code ignored;
  if (is_special(path) && !fs::is_directory(path, ignored)) return;
  const ReplacingFile never_committed(path);
}

void replace_file(const fs::path& path, std::string_view text) {
  ReplacingFile file(path);
  file.write(text);
  file.commit();
}

int open_spool(const fs::path& beside) {
  const fs::path folder = is_special(beside) ? fs::temp_directory_path() : beside.parent_path();
  std::string name = (folder / beside.filename()).string() + ".XXXXXX";
  const int descriptor = ::mkostemp(name.data(), O_CLOEXEC);
  if (descriptor < 0) throw cannot("write", beside);
  ::unlink(name.c_str());
  return descriptor;
}

void write_all(int descriptor, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor, bytes.data(), std::min<std::size_t>(bytes.size(), 1U << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw cannot("write", path);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

}  // namespace coterie
