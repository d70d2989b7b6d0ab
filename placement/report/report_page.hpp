// The parts of the report's page: its texts compiled in, its data, its words. Internal to report*.cpp.
#pragma once

#include "placement/report/report.hpp"

#include <map>
#include <string>
#include <string_view>

namespace coterie {

/// report/page.html, page.css and the scripts, one after another.
extern const std::string_view kReportPage;
extern const std::string_view kReportStyle;
extern const std::string_view kReportScript;

/// What a page says of a plan before and after.
struct ReportFacts {
  PlanFacts before;
  PlanFacts after;
};

/// Layer pairs whose affinity is stored: all, or every n-th so that the page stays below about 8 MB.
[[nodiscard]] std::vector<int> stored_pairs(const Problem& problem);
/// What the page's scripts draw, as JSON that may stand inside a <script>.
[[nodiscard]] std::string report_data(const ReportData& data, const ReportFacts& facts);

/// The page's words: what stands for {{name}} in the page, as HTML.
[[nodiscard]] std::map<std::string, std::string> report_words(const ReportData& data, const ReportFacts& facts);

/// `text` for HTML content and attributes.
[[nodiscard]] std::string escape_html(std::string_view text);
/// Puts words in place of {{name}}, and drops {{#name}} … {{/name}} where the word is empty. Throws std::logic_error
/// for a name without a word.
[[nodiscard]] std::string fill_template(std::string_view page, const std::map<std::string, std::string>& words);

}  // namespace coterie
