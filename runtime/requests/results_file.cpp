#include "runtime/requests/results_file.hpp"

#include "placement/input_error.hpp"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

namespace coterie {
namespace {

using namespace nlohmann::literals;

constexpr std::string_view kLineStart = R"({"id":"batch_req_)";

int open_for_append(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd >= 0) return fd;
  const int error = errno;
  std::error_code unknown;
  if (std::filesystem::is_other(path, unknown)) {  // a pipe or a device that can't be read
    return ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  }
  errno = error;
  return -1;
}

}  // namespace

ResultsFile::Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

ResultsFile::~ResultsFile() = default;

ResultsFile::ResultsFile(std::filesystem::path path) : path_(std::move(path)), file_(open_for_append(path_)) {
  if (file_.get() < 0) throw InputError(path_.string() + ": can't be written: " + std::strerror(errno));
  struct stat facts {};
  regular_ = ::fstat(file_.get(), &facts) == 0 && S_ISREG(facts.st_mode);
  if (!regular_) return;
  if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    throw InputError(path_.string() + ": another job is writing this file");
  }
  read();
}

void ResultsFile::read() {
  std::ifstream in(path_, std::ios::binary);
  std::string line;
  std::int64_t number = 0;
  while (std::getline(in, line)) {
    if (in.eof()) {  // torn: the job was killed inside a write
      if (number == 0 && !line.starts_with(kLineStart.substr(0, line.size()))) {
        throw bad_field(path_.string(), "line 1", "something else", "results of coterie generate, or no file");
      }
      if (::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0) {
        throw InputError(path_.string() + ": a torn last line can't be cut off: " + std::strerror(errno));
      }
      return;
    }
    note(line, ++number);
    size_ += line.size() + 1;
  }
  if (!in.eof()) throw InputError(path_.string() + ": can't be read behind line " + std::to_string(number));
}

void ResultsFile::note(const std::string& line, std::int64_t number) {
  const auto wrong = [&] {
    return bad_field(path_.string(), "line " + std::to_string(number), "something else",
                     "a result of coterie generate; name another output, or move this file away");
  };
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("custom_id") || !json.contains("response") || !json.contains("error")) {
    throw wrong();
  }
  const auto& id = json["custom_id"];
  const auto& error = json["error"];
  if (!id.is_string() && !id.is_null()) throw wrong();
  const std::string custom_id = id.is_string() ? id.get<std::string>() : "";
  if (error.is_object() && error.contains("line") && error["line"].is_number_integer()) {
    failed_.emplace(error["line"].get<std::int64_t>(), custom_id);
  } else if (error.is_null() && json["response"].is_object() && !custom_id.empty()) {
    completed_.insert(custom_id);
    const auto model = "/response/body/model"_json_pointer;
    if (json.contains(model) && json[model].is_string()) models_.insert(json[model].get<std::string>());
  } else {
    throw wrong();
  }
}

bool ResultsFile::answered(const RequestOrError& line) const {
  if (const auto* request = std::get_if<Request>(&line)) {
    return completed_.contains(request->custom_id) || failed_.contains({request->line, request->custom_id});
  }
  const auto& error = std::get<RequestError>(line);
  return failed_.contains({error.line, error.custom_id});
}

void ResultsFile::append(std::string_view line) {
  std::string text(line);
  text += '\n';
  for (std::size_t written = 0; written < text.size();) {
    const ssize_t count = ::write(file_.get(), text.data() + written, text.size() - written);
    if (count >= 0) {
      written += static_cast<std::size_t>(count);
      continue;
    }
    const int error = errno;
    if (error == EINTR) continue;
    std::string message = path_.string() + ": can't be written: " + std::strerror(error);
    if (regular_ && ::ftruncate(file_.get(), static_cast<off_t>(size_)) == 0) {
      message +=
          "; its " + std::to_string(size_) + " bytes of results are whole, and the same command goes on from there";
    }
    throw InputError(message);
  }
  size_ += text.size();
}

void ResultsFile::sync() {
  if (regular_ && ::fdatasync(file_.get()) != 0 && errno != EINVAL) {
    throw InputError(path_.string() + ": can't be written: " + std::strerror(errno));
  }
}

}  // namespace coterie
