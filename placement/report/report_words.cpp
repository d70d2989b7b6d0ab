#include "placement/number_text.hpp"
#include "placement/report/report_page.hpp"

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

/// For HTML: the sign never stands alone on a line.
std::string html_percent(double value, int digits = 1) {
  return fixed(100 * value, digits) + "&nbsp;%";
}

std::string tagged(const std::string& tag, const std::string& html, const std::string& css_class = "") {
  return "<" + tag + (css_class.empty() ? "" : " class=\"" + css_class + "\"") + ">" + html + "</" +
         tag.substr(0, tag.find(' ')) + ">";
}

/// The objective's value as people read it.
std::string value_text(Objective objective, double value) {
  return objective == Objective::affinity ? html_percent(value) : fixed(value, 3);
}

std::string value_name(const Problem& problem) {
  switch (problem.objective) {
    case Objective::affinity:
      return problem.topology.nodes() > 1 ? "Affinity kept, by price" : "Weight that stays on a rank";
    case Objective::traffic:
      return "Priced rows per token and layer";
    case Objective::load:
      return "Heaviest rank / mean, mean over layers";
  }
  return {};
}

std::string headline(const ReportData& data, const ReportFacts& facts) {
  const Figures& before = facts.before.figures;
  const Figures& after = facts.after.figures;
  const std::string name = escape_html(data.before_name);
  switch (data.problem->objective) {
    case Objective::affinity:
      return html_percent(after.stays) + " of the weight between layers stays on its rank, " +
             html_percent(before.stays) + " with " + name;
    case Objective::traffic: {
      if (before.value <= 0) return "No rows travel between ranks";
      const double saved = 1 - after.value / before.value;
      return html_percent(std::abs(saved), 0) + (saved >= 0 ? " less" : " more") + " traffic between ranks than with " +
             name;
    }
    case Objective::load:
      return "The heaviest rank has " + fixed(after.load_mean, 2) + " times the mean load, " +
             fixed(before.load_mean, 2) + " times with " + name;
  }
  return {};
}

enum class Better { higher, lower };

std::string card(const std::string& name, double before, double after, Better direction, bool share, int digits = 2) {
  const auto text = [&](double v) { return share ? html_percent(v) : fixed(v, digits); };
  std::string change;
  if (text(before) != text(after)) {
    const bool better = (after > before) == (direction == Better::higher);
    const std::string by = share         ? fixed(100 * std::abs(after - before), 1) + " points"
                           : before != 0 ? html_percent(std::abs(after / before - 1), 0)
                                         : text(std::abs(after - before));
    change = " <span class=\"" + std::string(better ? "better" : "worse") + "\">" + (after > before ? "▲ " : "▼ ") +
             by + "</span>";
  }
  return "<dl class=\"card\">" + tagged("dt", name) + "<dd><span class=\"now\">" + text(after) +
         "</span><br><span class=\"was\">from " + text(before) + change + "</span></dd></dl>";
}

std::string cards(const ReportData& data, const ReportFacts& facts) {
  const Problem& problem = *data.problem;
  const Figures& a = facts.before.figures;
  const Figures& b = facts.after.figures;
  std::string html;
  if (!problem.traces.empty()) {
    if (problem.topology.nodes() > 1)
      html += card("Priced rows per token and layer", a.priced, b.priced, Better::lower, false);
    html += card("Rows that leave a rank, per token and layer", a.rows, b.rows, Better::lower, false);
    if (problem.topology.nodes() > 1) {
      html += card("Rows that leave a node, per token and layer", a.rows_between, b.rows_between, Better::lower, false);
    }
  }
  if (!problem.statistics.affinity.empty()) {
    html += card("Weight to the next layer that stays on its rank", a.stays, b.stays, Better::higher, true);
  }
  html += card("Heaviest rank over mean, worst layer", a.load_worst, b.load_worst, Better::lower, false);
  return html;
}

/// What made a bound, for people.
std::string explained(const std::string& kind) {
  if (kind == "dp") return "dynamic programming along the layers, which is exact";
  if (kind == "ilp") return "the integer program";
  if (kind.find("dnn") != std::string::npos) {
    return "a doubly nonnegative relaxation" +
           std::string(kind.find("tri") != std::string::npos ? " with triangle cuts" : "") + " (" + escape_html(kind) +
           ")";
  }
  if (kind.find("linear") != std::string::npos) return "the prices of a linear relaxation (" + escape_html(kind) + ")";
  if (kind == "degree") return "the largest weights of each expert";
  if (kind == "fewest ranks") return "the fewest ranks that a token's experts fill";
  if (kind == "heaviest expert") return "the mean load, and the heaviest expert of each layer";
  return escape_html(kind);
}

/// Kinds that inspect proves again from the trace alone.
bool needs_file(const std::string& kind) {
  return kind != "dp" && kind != "ilp" && kind != "heaviest expert";
}

/// A line from the baseline to the bound with the plan on it.
std::string gauge(const ReportData& data) {
  const Certificate& c = data.certificate;
  const Objective objective = data.problem->objective;
  if (std::abs(c.bound - c.baseline) < 1e-12) return {};
  const double at = 100 * std::clamp((c.value - c.baseline) / (c.bound - c.baseline), 0.0, 1.0);
  const auto text = [](double x, int y, const std::string& anchor, const std::string& what) {
    return "<text x=\"" + fixed(x, 2) + "%\" y=\"" + std::to_string(y) + "\" text-anchor=\"" + anchor +
           "\" fill=\"currentColor\" font-size=\"13\">" + what + "</text>";
  };
  const std::string name = escape_html(data.after_name) + " " + value_text(objective, c.value);
  return "<svg role=\"img\" aria-label=\"" + html_percent(at / 100, 0) + " of the way from " +
         escape_html(data.before_name) + " to the bound\">" +
         text(at, 13,
              at > 70   ? "end"
              : at < 30 ? "start"
                        : "middle",
              name) +
         "<rect x=\"0\" y=\"24\" width=\"100%\" height=\"8\" rx=\"4\" fill=\"var(--line)\"/>" +
         "<rect x=\"0\" y=\"24\" width=\"" + fixed(at, 2) + "%\" height=\"8\" rx=\"4\" fill=\"var(--after)\"/>" +
         "<circle cx=\"" + fixed(at, 2) +
         "%\" cy=\"28\" r=\"7\" fill=\"var(--after)\" stroke=\"var(--card)\" stroke-width=\"2\"/>" +
         text(0, 54, "start", escape_html(data.before_name) + " " + value_text(objective, c.baseline)) +
         text(100, 54, "end", "bound " + value_text(objective, c.bound)) + "</svg>";
}

std::string certificate(const ReportData& data) {
  const Certificate& c = data.certificate;
  const std::string name = value_name(*data.problem);
  std::string words;
  if (c.bound_kind.empty()) {
    words = tagged(
        "p",
        "<b>No certificate.</b> No bound was computed, so how much better another placement could be is not known.");
    return "<div class=\"certificate\">" + words + "</div>";
  }
  const bool larger = data.problem->objective == Objective::affinity;
  const std::string bound = value_text(data.problem->objective, c.bound);
  if (std::abs(c.gap) < 1e-6) {
    words = tagged("p", "<b>This plan is optimal.</b> No placement under these limits can be better: proven by " +
                            explained(c.bound_kind) + ".");
  } else {
    words = tagged("p", "<b>At most " + html_percent(c.gap, c.gap < 0.1 ? 2 : 1) + " from the best possible.</b> " +
                            name + (larger ? " cannot be above " : " cannot be below ") + bound +
                            " for any placement under these limits: proven by " + explained(c.bound_kind) + ".");
  }
  words += gauge(data);
  words += tagged("p",
                  "Solver " + escape_html(c.solver) + ", " + duration(c.seconds) + ", seed " + std::to_string(c.seed) +
                      ". <code>coterie inspect plan.json --trace TRACE --check" +
                      (needs_file(c.bound_kind) ? " --certificate FILE" : "") + "</code> verifies this.",
                  "was");
  if (data.bounds.size() > 1) {
    words += "<ul>";
    for (const Bound& b : data.bounds) {
      words += tagged(
          "li", explained(b.kind) + ": " + value_text(data.problem->objective, b.value) + ", " + duration(b.seconds));
    }
    words += "</ul>";
  }
  return "<div class=\"certificate\">" + words + "</div>";
}

std::string warnings(const ReportData& data) {
  if (data.warnings.empty()) return {};
  std::string items;
  for (const std::string& w : data.warnings) items += tagged("li", escape_html(w));
  return "<ul class=\"warnings\" aria-label=\"Warnings\">" + items + "</ul>";
}

std::string chips(const ReportData& data, const ReportFacts& facts) {
  const Problem& problem = *data.problem;
  std::string html;
  const auto chip = [&](const std::string& text) { html += tagged("span", text); };
  chip(std::to_string(problem.layers()) + " MoE layers");
  chip(std::to_string(problem.experts()) + " experts, top " + std::to_string(data.top_k));
  chip(std::to_string(problem.ranks()) + (problem.ranks() == 1 ? " rank" : " ranks") +
       (problem.topology.nodes() > 1 ? " in " + std::to_string(problem.topology.nodes()) + " nodes" : ""));
  chip("objective " + std::string(name_of(problem.objective)));
  if (!problem.traces.empty()) chip("coherence domain " + std::string(name_of(problem.domain)));
  chip(problem.balance ? "load limit " + fixed(*problem.balance, 2) : "no load limit");
  if (facts.after.replicas > 0) chip(std::to_string(facts.after.replicas) + " replicas over all layers");
  chip(grouped(problem.statistics.tokens) + " tokens");
  return html;
}

struct Column {
  std::string name;
  std::string (*text)(const Figures&);
};

std::vector<Column> columns(const Problem& problem) {
  std::vector<Column> all;
  if (problem.objective == Objective::affinity && problem.topology.nodes() > 1) {
    all.push_back({"affinity kept, by price", [](const Figures& f) { return html_percent(f.affinity); }});
  }
  if (!problem.traces.empty()) {
    if (problem.topology.nodes() > 1) {
      all.push_back({"priced rows", [](const Figures& f) { return fixed(f.priced, 3); }});
    }
    all.push_back({"rows that leave a rank", [](const Figures& f) { return fixed(f.rows, 3); }});
    if (problem.topology.nodes() > 1) {
      all.push_back({"rows between nodes", [](const Figures& f) { return fixed(f.rows_between, 3); }});
    }
  }
  if (!problem.statistics.affinity.empty()) {
    all.push_back({"weight that stays", [](const Figures& f) { return html_percent(f.stays); }});
  }
  all.push_back({"heaviest / mean, layers' mean", [](const Figures& f) { return fixed(f.load_mean, 2); }});
  all.push_back({"heaviest / mean, worst layer", [](const Figures& f) { return fixed(f.load_worst, 2); }});
  return all;
}

/// A section with a table that scrolls inside itself.
std::string table_section(const std::string& id, const std::string& title, const std::string& text,
                          const std::string& head, const std::string& body) {
  return "<section aria-labelledby=\"" + id + "-title\"><h2 id=\"" + id + "-title\">" + title + "</h2>" +
         tagged("p", text) + "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"" + id +
         "-title\"><table><thead><tr>" + head + "</tr></thead><tbody>" + body + "</tbody></table></div></section>\n";
}

std::string compared(const ReportData& data) {
  if (data.compared.empty()) return {};
  const auto all = columns(*data.problem);
  const bool notes =
      std::any_of(data.compared.begin(), data.compared.end(), [](const auto& p) { return !p.note.empty(); });
  std::string head = tagged("th scope=\"col\"", "plan");
  for (const Column& column : all) head += tagged("th scope=\"col\"", column.name);
  head += tagged("th scope=\"col\"", "seconds") + (notes ? "<td></td>" : "");
  std::string body;
  for (const ComparedPlan& plan : data.compared) {
    std::string row = tagged("th scope=\"row\"", escape_html(plan.name));
    for (const Column& column : all) row += tagged("td", column.text(plan.figures));
    row += tagged("td", fixed(plan.seconds, plan.seconds < 10 ? 2 : 0));
    if (notes) row += tagged("td", escape_html(plan.note), "note");
    body += tagged("tr", row, plan.chosen ? "chosen" : "");
  }
  return table_section("compare", "Plans compared", "Rows are counted per token and layer.", head, body);
}

std::string held_out(const ReportData& data) {
  if (!data.holdout) return {};
  const Holdout& h = *data.holdout;
  std::string head = "<td></td>";
  head += tagged("th scope=\"col\"", "fitted") + tagged("th scope=\"col\"", "left out") +
          tagged("th scope=\"col\"", "left out, " + escape_html(data.before_name));
  std::string body;
  for (const Column& column : columns(*data.problem)) {
    body += tagged("tr", tagged("th scope=\"row\"", column.name) + tagged("td", column.text(h.fitted)) +
                             tagged("td", column.text(h.left_out)) + tagged("td", column.text(h.baseline_left_out)));
  }
  return table_section(
      "holdout", "On other data",
      html_percent(h.share, 0) + " of the sequences (" + grouped(h.tokens) +
          " tokens) were kept out of the fit. A plan that carries over has about the same figures on them.",
      head, body);
}

std::string footer(const ReportData& data) {
  std::string html = tagged("p", "Made by coterie " COTERIE_VERSION ".");
  for (const PlanSource& source : data.sources) {
    html += tagged("p", escape_html(source.file) +
                            (source.weight == 1 ? "" : ", weight " + escape_html(fixed(source.weight, 3))) + " <code>" +
                            escape_html(source.digest) + "</code>");
  }
  return html;
}

std::string landing(Domain domain) {
  switch (domain) {
    case Domain::rank:
      return "Every token goes home after its experts.";
    case Domain::node:
      return "A token stays where most of its gate weight was computed, as long as that is in the node of its home.";
    case Domain::world:
      return "A token stays where most of its gate weight was computed; the other ranks send their partial sums there.";
  }
  return {};
}

std::string affinity_note(const ReportData& data, const ReportFacts& facts) {
  std::string note;
  const auto pairs = stored_pairs(*data.problem);
  if (pairs.size() > 1 && pairs[1] > 1) {
    note += " To keep this page small, every " + std::to_string(pairs[1]) + ". pair of layers is stored.";
  }
  if (facts.before.replicas > 0 || facts.after.replicas > 0)
    note += " An expert with replicas is drawn at its first rank.";
  return note;
}

std::string moves_key(bool many_nodes, bool groups_are_nodes) {
  std::string key;
  if (!groups_are_nodes) key += tagged("span", many_nodes ? "moves inside its node" : "moves to another rank", "moves");
  if (many_nodes) key += tagged("span", "moves to another node", "far");
  return key;
}

}  // namespace

std::map<std::string, std::string> report_words(const ReportData& data, const ReportFacts& facts) {
  const Problem& problem = *data.problem;
  const bool many = problem.topology.nodes() > 1;
  const bool whole_nodes = facts.after.groups.names.front().starts_with("node");
  const bool ranks_alone = static_cast<int>(facts.after.groups.names.size()) == problem.ranks();
  const std::string yes = "yes";
  return {
      {"title", escape_html(data.model)},
      {"chips", chips(data, facts)},
      {"headline", headline(data, facts)},
      {"cards", cards(data, facts)},
      {"certificate", certificate(data)},
      {"warnings", warnings(data)},
      {"before", escape_html(data.before_name)},
      {"after", escape_html(data.after_name)},
      {"affinity", problem.statistics.affinity.empty() ? "" : yes},
      {"affinity_note", affinity_note(data, facts)},
      {"traffic", problem.traces.empty() ? "" : yes},
      {"traffic_note", landing(problem.domain) + (many ? " Outlined blocks are nodes." : "")},
      {"load_note", problem.balance ? " The dashed line is the limit that the plan was made with." : ""},
      {"limit_key", problem.balance ? "<span class=\"limit\">limit " + fixed(*problem.balance, 2) + "</span>" : ""},
      {"flow", problem.traces.empty() ? "" : yes},
      {"flow_groups", ranks_alone   ? "one rank"
                      : whole_nodes ? "one node"
                                    : "one run of ranks"},
      {"moves", moves_key(many, whole_nodes)},
      {"tables", compared(data) + held_out(data)},
      {"footer", footer(data)},
  };
}

}  // namespace coterie
