// Facts as text for a terminal of 80 columns: labelled lines and tables.
#pragma once

#include <string>
#include <vector>

namespace coterie {

/// Bytes that a terminal would obey stand as '?': names in files come from anyone. Lines and tabs stay.
[[nodiscard]] std::string printable(std::string text);

/// The line that says why a command ends: printable, and led by the program's name where `what` doesn't begin with it.
/// `whose`: "[rank 3] ", or nothing.
[[nodiscard]] std::string complaint(const std::string& what, const std::string& whose = "");

class TextPage {
 public:
  /// A label, and text that is wrapped behind it.
  void fact(const std::string& label, const std::string& text);
  /// A table with its columns right-aligned, an empty line before it.
  void table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows);
  /// Text of its own, wrapped, an empty line before it.
  void note(const std::string& text);

  [[nodiscard]] std::string text() const { return printable(text_); }

 private:
  void wrapped(std::string line, std::size_t indent, const std::string& text);

  std::string text_;
};

}  // namespace coterie
