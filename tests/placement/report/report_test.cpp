#include "placement/report/report.hpp"

#include "placement/files/json_view.hpp"
#include "placement/report/report_page.hpp"
#include "tests/placement/random_problem.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>

namespace coterie {
namespace {

using nlohmann::json;

/// A report's data, and what they point to.
struct Sample {
  explicit Sample(const TraceShape& shape = {}, const Topology& topology = {{2, 1}})
      : made(random_problem(shape, topology, 41)) {
    data.model = "small";
    data.layer_ids = made.trace->layer_ids;
    data.top_k = shape.top_k;
    data.problem = &made.problem;
    data.before = owners_of(contiguous_assignment(made.problem));
    data.after = random_owners(made.problem, 0, 8);
    data.certificate.bound_kind = "dnn+triangles";
    data.certificate.baseline = 3;
    data.certificate.value = 2;
    data.certificate.bound = 1.5;
    data.certificate.gap = 0.25;
  }

  [[nodiscard]] std::string write() const {
    const ScratchFolder folder;
    write_report(folder / "report.html", data);
    return read_text(folder / "report.html");
  }

  RandomProblem made;
  ReportData data;
};

/// Empty, or the first place where tags don't match. Knows the elements that have no end tag, and skips scripts.
std::string unbalanced(const std::string& page) {
  const std::vector<std::string> alone{"meta", "br", "input", "link"};
  std::vector<std::string> open;
  for (std::size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at + 1)) {
    const std::size_t end = page.find('>', at);
    std::string near = page.substr(at, 60);
    if (page[at + 1] == '!') continue;
    if (end == std::string::npos) return near;
    const bool closing = page[at + 1] == '/';
    std::size_t last = at + 1 + closing;
    while (std::isalnum(static_cast<unsigned char>(page[last])) != 0) ++last;
    const std::string name = page.substr(at + 1 + closing, last - at - 1 - closing);
    if (name.empty()) return near;
    if (closing) {
      if (open.empty() || open.back() != name) return near;
      open.pop_back();
    } else if (page[end - 1] != '/' && std::find(alone.begin(), alone.end(), name) == alone.end()) {
      open.push_back(name);
      if (name == "script" || name == "style") at = page.find("</" + name, end) - 1;
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> stays open";
}

json data_of(const std::string& page) {
  const std::string start = R"(<script type="application/json" id="data">)";
  const std::size_t begin = page.find(start) + start.size();
  return json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

TEST(Report, IsWholeAndNeedsNoNetwork) {
  const std::string page = Sample().write();
  EXPECT_EQ(unbalanced(page), "");
  EXPECT_EQ(page.find("{{"), std::string::npos);
  EXPECT_EQ(page.find("src="), std::string::npos);
  EXPECT_EQ(page.find("http://"), page.find("http://www.w3.org/2000/svg")) << "only the name of SVG";
  EXPECT_EQ(page.find("https://"), std::string::npos);
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
}

TEST(Report, HasTheFactsOfBothPlans) {
  const Sample sample;
  const json data = data_of(sample.write());
  const Problem& problem = sample.made.problem;
  EXPECT_EQ(data["experts"], problem.experts());
  EXPECT_EQ(data["layer_ids"], json(sample.data.layer_ids));
  ASSERT_EQ(data["plans"].size(), 2U);
  const PlanFacts facts = facts_of(problem, sample.data.after);
  const json& after = data["plans"][1];
  for (int l = 0; l + 1 < problem.layers(); ++l) EXPECT_NEAR(after["kept"][l], facts.stays[l], 1e-4);
  for (int a = 0; a < 3; ++a) {
    for (int b = 0; b < 3; ++b) EXPECT_NEAR(after["traffic"][a][b], 1000 * facts.traffic[a * 3 + b], 1e-2);
    EXPECT_NEAR(after["load"][2][a], facts.load[2 * 3 + a], 1e-4);
    EXPECT_EQ(after["held"][2][a], facts.held[2 * 3 + a]);
  }
  EXPECT_EQ(after["owner"][1][5], sample.data.after[1][5].front());
  EXPECT_EQ(data["affinity"]["pairs"], (json{0, 1, 2}));
  EXPECT_EQ(data["affinity"]["bytes"].get<std::string>().size(), 3U * 12 * 12 / 3 * 4);
}

TEST(Report, NamesFromFilesCannotBecomeMarkup) {
  Sample sample;
  sample.data.model = "<img src=x onerror=alert(1)> & \"co\"";
  sample.data.before_name = "</script><script>alert(2)</script>";
  sample.data.warnings = {"<b>bold</b>"};
  sample.data.sources = {{"<i>.safetensors", "sha256:0", 0.5, 0, -1}};
  sample.data.compared = {{"<u>", {}, 1, "<s>", false}};
  const std::string page = sample.write();
  EXPECT_EQ(unbalanced(page), "");
  for (const std::string bad : {"<img", "<script>alert", "<b>bold", "<i>.", "<u>", "<s>"}) {
    EXPECT_EQ(page.find(bad), std::string::npos) << bad;
  }
  EXPECT_NE(page.find("&lt;img src=x onerror=alert(1)&gt; &amp; &quot;co&quot;"), std::string::npos);
  EXPECT_EQ(data_of(page)["plans"][0]["name"], sample.data.before_name);
}

TEST(Report, SaysWhatIsProven) {
  Sample sample;
  EXPECT_NE(sample.write().find("At most 25.0&nbsp;% from the best possible"), std::string::npos);
  sample.data.certificate.bound = 2;
  sample.data.certificate.gap = 0;
  EXPECT_NE(sample.write().find("This plan is optimal"), std::string::npos);
  sample.data.certificate.bound_kind.clear();
  EXPECT_NE(sample.write().find("No certificate"), std::string::npos);
}

TEST(Report, ShowsHoldoutWarningsAndPlansCompared) {
  Sample sample;
  EXPECT_EQ(sample.write().find("On other data"), std::string::npos);
  Figures left_out;
  left_out.rows = 1.234;
  sample.data.holdout = Holdout{0.2, 12345, {}, left_out, {}};
  sample.data.warnings = {"does not carry over"};
  sample.data.compared = {{"eplb", {}, 0.5, "breaks the load limit", true}};
  const std::string page = sample.write();
  for (const std::string text : {"On other data", "12,345 tokens", "<td>1.234</td>", "does not carry over",
                                 "breaks the load limit", "<tr class=\"chosen\"><th scope=\"row\">eplb"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text;
  }
}

TEST(Report, LeavesOutWhatLoadsAloneDoNotTell) {
  Sample sample;
  sample.made.problem.objective = Objective::load;
  sample.made.problem.traces.clear();
  sample.made.problem.statistics.affinity.clear();
  const std::string page = sample.write();
  EXPECT_EQ(unbalanced(page), "");
  for (const std::string id : {"id=\"affinity-before\"", "id=\"traffic-before\"", "id=\"flow-before\""}) {
    EXPECT_EQ(page.find(id), std::string::npos) << id;
  }
  EXPECT_NE(page.find("id=\"load\""), std::string::npos);
}

TEST(Report, StaysSmall) {
  const Sample large({.tokens = 20, .layers = 48, .experts = 64, .top_k = 2}, {{8}});
  EXPECT_LT(large.write().size(), 1'000'000U);
  Problem huge;
  huge.statistics.layers = 58;
  huge.statistics.experts = 256;
  huge.statistics.affinity.resize(57UL * 256 * 256);
  EXPECT_EQ(stored_pairs(huge).size(), 57U);
  huge.statistics.experts = 512;
  huge.statistics.affinity.resize(57UL * 512 * 512);
  EXPECT_LE(stored_pairs(huge).size() * 512 * 512, 6'000'000U);
  EXPECT_GT(stored_pairs(huge).size(), 10U);
}

TEST(Report, WorksForOneRankAndOneLayer) {
  EXPECT_EQ(unbalanced(Sample({.layers = 1}, {{1}}).write()), "");
}

}  // namespace
}  // namespace coterie
