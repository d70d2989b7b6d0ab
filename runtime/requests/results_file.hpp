// The results of a job on disk: appended to as requests finish, read again when the job is started again.
#pragma once

#include "runtime/requests/request_parser.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace coterie {

/// Every line in the file is whole at any moment at which the job may be killed, but perhaps the last; that one is cut
/// off when the file is opened again. Only one job at a time has a file open.
class ResultsFile {
 public:
  /// Opens `path`, made where it is missing, and finds what it answers. Throws InputError when it can't be written,
  /// when another job has it open, and when it holds something else than results: then it is left as it is. What is not
  /// a regular file (a pipe, a device) is written only.
  explicit ResultsFile(std::filesystem::path path);
  ~ResultsFile();
  ResultsFile(const ResultsFile&) = delete;
  ResultsFile& operator=(const ResultsFile&) = delete;

  /// Whether an earlier run answered this line of the input: a completion answers its custom_id; an error record
  /// answers the line that it names, as long as that line still has the same custom_id (or none).
  [[nodiscard]] bool answered(const RequestOrError& line) const;
  /// Found when the file was opened.
  [[nodiscard]] std::size_t completions_found() const noexcept { return completed_.size(); }
  [[nodiscard]] std::size_t errors_found() const noexcept { return failed_.size(); }
  /// Names of the models that those completions are of.
  [[nodiscard]] const std::set<std::string>& models_found() const noexcept { return models_; }

  /// Writes `line` and its end in one call. Throws InputError when the disk is full or fails; what was written before
  /// stays, and nothing of this line.
  void append(std::string_view line);
  /// Returns when everything is on the disk. Throws InputError when it can't be.
  void sync();

 private:
  class Descriptor {
   public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    [[nodiscard]] int get() const noexcept { return fd_; }

   private:
    int fd_;
  };

  void read();
  void note(const std::string& line, std::int64_t number);

  std::filesystem::path path_;
  Descriptor file_;
  bool regular_ = false;
  std::uint64_t size_ = 0;  // bytes of whole lines
  std::unordered_set<std::string> completed_;
  std::set<std::string> models_;
  std::set<std::pair<std::int64_t, std::string>> failed_;  // line, custom_id
};

}  // namespace coterie
