#include "placement/report/report.hpp"

#include "placement/files/replacing_file.hpp"
#include "placement/report/report_page.hpp"

#include <stdexcept>
#include <utility>

namespace coterie {

std::string escape_html(std::string_view text) {
  std::string html;
  for (const char c : text) {
    switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      case '\'':
        html += "&#39;";
        break;
      default:
        html += c;
    }
  }
  return html;
}

std::string fill_template(std::string_view page, const std::map<std::string, std::string>& words) {
  const auto word = [&](const std::string& name) -> const std::string& {
    const auto found = words.find(name);
    if (found == words.end()) throw std::logic_error("the report's page has no word for " + name);
    return found->second;
  };
  std::string filled;
  while (true) {
    const std::size_t open = page.find("{{");
    filled += page.substr(0, open);
    if (open == std::string_view::npos) return filled;
    const std::size_t close = page.find("}}", open);
    std::string name(page.substr(open + 2, close - open - 2));
    page.remove_prefix(close + 2);
    if (name.front() == '/') continue;
    if (name.front() != '#') {
      filled += word(name);
      continue;
    }
    name.erase(0, 1);
    const std::string end = "{{/" + name + "}}";
    if (word(name).empty()) page.remove_prefix(page.find(end) + end.size());
  }
}

void write_report(const std::filesystem::path& path, const ReportData& data) {
  const ReportFacts facts{facts_of(*data.problem, data.before), facts_of(*data.problem, data.after)};
  auto words = report_words(data, facts);
  words["style"] = kReportStyle;
  words["script"] = kReportScript;
  words["data"] = report_data(data, facts);
  replace_file(path, fill_template(kReportPage, words));
}

}  // namespace coterie
