// Lines, bars and flows as SVG, and what is drawn when.

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A frame with a y axis from 0 to `top` and room for x labels; returns its measures. */
function frame(holder, { top, height = 200, format, label }) {
  const width = Math.max(280, holder.clientWidth);
  const area = { left: 52, right: width - 6, top: 10, bottom: height - 24 };
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
  const y = (value) => area.bottom - (value / top) * (area.bottom - area.top);
  const tick = [0.5, 1, 2, 2.5, 5, 10].map((m) => m * 10 ** Math.floor(Math.log10(top / 4))).find((m) => top / m <= 5.01);
  for (let value = 0; value <= top * 1.001; value += tick) {
    root.append(svg("line", { class: "gridline", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
                svg("text", { x: area.left - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  holder.replaceChildren(root);
  return { root, area, y };
}

/** Labels below the x axis, as many as have room. */
function xLabels({ root, area }, names, middle) {
  const room = 30;
  let last = -room;
  names.forEach((name, i) => {
    if (middle(i) - last < room) return;
    last = middle(i);
    root.append(svg("text", { x: middle(i), y: area.bottom + 17, "text-anchor": "middle" }, name));
  });
}

/** Transparent columns that carry the tips and pick layers: above everything. */
function hitColumns({ root, area }, count, step, tipOf, picked, pick) {
  for (let i = 0; i < count; ++i) {
    const hit = svg("rect", {
      class: picked === i ? "hit picked" : "hit", x: area.left + i * step, y: area.top, width: step,
      height: area.bottom - area.top, "data-tip": tipOf(i), tabindex: pick && (picked ?? 0) === i ? 0 : -1,
      role: pick ? "button" : "img", "aria-label": tipOf(i).replaceAll("\n", "; "),
    });
    if (pick) {
      hit.addEventListener("click", () => pick(i));
      hit.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const holder = root.parentElement;  // picking draws the chart anew
        pick(i + step);
        holder.querySelector("[tabindex='0']")?.focus();
      });
    }
    root.append(hit);
  }
}

function drawKept() {
  const holder = element("kept");
  const pairs = layers - 1;
  if (pairs < 1) return holder.replaceChildren("There is only one layer.");
  const top = Math.min(1, 1.08 * Math.max(...data.plans.flatMap((plan) => plan.kept), 0.01));
  const chart = frame(holder, { top, format: (x) => percent(x, top < 0.15 ? 1 : 0),
                                label: "Share of the weight that stays on a rank, for each pair of layers" });
  const step = (chart.area.right - chart.area.left) / pairs;
  const x = (i) => chart.area.left + (i + 0.5) * step;
  data.plans.forEach((plan, p) => {
    const points = plan.kept.map((kept, i) => `${x(i).toFixed(1)},${chart.y(kept).toFixed(1)}`);
    chart.root.append(svg("polyline", { class: p ? "line-after" : "line-before", points: points.join(" ") }));
    if (pairs > 40) return;
    plan.kept.forEach((kept, i) => chart.root.append(
      svg("circle", { class: p ? "bar-after" : "bar-before", cx: x(i), cy: chart.y(kept), r: 3 })));
  });
  xLabels(chart, data.layer_ids.slice(0, -1), x);
  const tipOf = (i) => `${layerName(i)} → ${data.layer_ids[i + 1]}\n` +
    data.plans.map((plan) => `${plan.name}: ${percent(plan.kept[i])}`).join("\n");
  hitColumns(chart, pairs, step, tipOf, Math.min(layer, pairs - 1), pickLayer);
}

/** Pairs of bars, before and after, with a line at 1 and one at the limit. */
function drawBars(holder, { count, names, value, tipOf, picked, pick, label, height }) {
  const values = data.plans.flatMap((_, p) => Array.from({ length: count }, (__, i) => value(p, i)));
  const top = 1.05 * Math.max(...values, data.limit || 0, 1.2);
  const chart = frame(holder, { top, height, format: (x) => x.toFixed(1), label });
  const step = (chart.area.right - chart.area.left) / count;
  const bar = Math.min(26, Math.max(1, (step - Math.min(6, step * 0.3)) / 2));
  for (let i = 0; i < count; ++i) {
    data.plans.forEach((_, p) => {
      const y = chart.y(value(p, i));
      chart.root.append(svg("rect", { class: p ? "bar-after" : "bar-before", x: chart.area.left + (i + 0.5) * step + (p - 1) * bar,
                                      y, width: Math.max(0.8, bar - 0.5), height: Math.max(0, chart.area.bottom - y) }));
    });
  }
  const line = (at, kind) => chart.root.append(
    svg("line", { class: kind, x1: chart.area.left, x2: chart.area.right, y1: chart.y(at), y2: chart.y(at) }));
  if (data.limit) line(data.limit, "limitline");
  xLabels(chart, names, (i) => chart.area.left + (i + 0.5) * step);
  hitColumns(chart, count, step, tipOf, picked, pick);
}

function drawLoad() {
  const heaviest = data.plans.map((plan) => plan.load.map((ranks) => Math.max(...ranks)));
  drawBars(element("load"), {
    count: layers, names: data.layer_ids, value: (p, i) => heaviest[p][i], picked: layer, pick: pickLayer,
    label: "Heaviest rank over mean rank, for each layer",
    tipOf: (i) => `${layerName(i)}, heaviest / mean\n` +
      data.plans.map((plan, p) => `${plan.name}: ${heaviest[p][i].toFixed(2)} (rank ${plan.load[i].indexOf(heaviest[p][i])})`).join("\n"),
  });
}

function drawLoadOfRanks() {
  drawBars(element("load-ranks"), {
    count: data.ranks, names: Array.from({ length: data.ranks }, (_, r) => String(r)), height: 170,
    value: (p, r) => data.plans[p].load[layer][r],
    label: `Load of each rank at ${layerName(layer)} over the mean`,
    tipOf: (r) => `rank ${r} at ${layerName(layer)}, load / mean\n` + data.plans.map((plan) =>
      `${plan.name}: ${plan.load[layer][r].toFixed(2)} (${plan.held[layer][r]} experts)`).join("\n"),
  });
}

/** Tokens from group to group through the layers. A group is a rank, a node or a run of ranks. */
function drawFlow(holder, plan) {
  const groups = data.flow.groups;
  const steps = plan.flow.length;  // (pairs, groups, groups): share of the tokens
  if (steps < 1) return holder.replaceChildren("There is only one layer.");
  const bar = 8;
  const gap = groups.length > 1 ? Math.min(8, 40 / (groups.length - 1)) : 0;
  const height = Math.max(180, Math.min(300, groups.length * 40));
  const top = 6;
  const left = 34;
  const span = Math.max(40, (holder.clientWidth - left - bar - 4) / steps);
  const width = left + steps * span + bar + 4;
  const full = height - gap * (groups.length - 1);
  const stays = plan.flow.reduce((sum, m) => sum + m.reduce((s, row, g) => s + row[g], 0), 0) / steps;
  const root = svg("svg", { width, height: height + top + 24, role: "img",
                            "aria-label": `Where tokens travel, ${plan.name}: ${percent(stays)} of the tokens stay from ` +
                              `one layer to the next` });
  const sums = (step, of) => groups.map((_, g) => groups.reduce((sum, __, h) => sum + of(plan.flow[step], g, h), 0));
  const columns = plan.flow.map((__, step) => sums(step, (m, g, h) => m[g][h]));
  columns.push(sums(steps - 1, (m, g, h) => m[h][g]));
  const starts = columns.map((column) => {
    let y = top;
    return column.map((share) => { const at = y; y += share * full + gap; return at; });
  });
  const moving = svg("g");
  const staying = svg("g");
  root.append(moving, staying);
  for (let step = 0; step < steps; ++step) {
    const [x0, x1] = [left + step * span + bar, left + (step + 1) * span];
    const middle = (x0 + x1) / 2;
    const outOf = [...starts[step]];
    const into = [...starts[step + 1]];
    groups.forEach((from, g) => groups.forEach((to, h) => {
      const share = plan.flow[step][g][h];
      const thick = share * full;
      const [a, b] = [outOf[g], into[h]];
      outOf[g] += thick;
      into[h] += thick;
      if (thick < 0.15) return;
      const kind = g === h ? "stays" : from.node === to.node ? "moves" : "far";
      (kind === "stays" ? staying : moving).append(svg("path", {
        class: `ribbon ${kind}`,
        d: `M${x0},${a.toFixed(1)}C${middle},${a.toFixed(1)} ${middle},${b.toFixed(1)} ${x1},${b.toFixed(1)}` +
           `v${thick.toFixed(2)}C${middle},${(b + thick).toFixed(1)} ${middle},${(a + thick).toFixed(1)} ${x0},${(a + thick).toFixed(1)}z`,
        "data-tip": `${layerName(step)} → ${data.layer_ids[step + 1]}\n` +
          (g === h ? `stay with ${from.name}` : `${from.name} → ${to.name}`) + `\n${percent(share)} of the tokens`,
      }));
    }));
  }
  columns.forEach((column, l) => {
    column.forEach((share, g) => root.append(svg("rect", {
      class: "block", x: left + l * span, y: starts[l][g], width: bar, height: Math.max(0.5, share * full),
      "data-tip": `${layerName(l)}: ${groups[g].name}\n${percent(share)} of the tokens`,
    })));
    root.append(svg("text", { x: left + l * span + bar / 2, y: top + height + 18, "text-anchor": "middle" }, data.layer_ids[l]));
  });
  let last = -20;
  groups.forEach((group, g) => {
    const y = starts[0][g] + (columns[0][g] * full) / 2 + 4;
    if (y - last < 13) return;
    last = y;
    root.append(svg("text", { x: left - 6, y, "text-anchor": "end" }, group.short));
  });
  const scrolled = holder.scrollLeft;
  holder.replaceChildren(root);
  holder.scrollLeft = scrolled;
}

// ---- What is drawn when ----

const shows = { affinity: element("affinity-before"), traffic: element("traffic-before"), flow: element("flow-before") };

function drawLayer() {
  if (shows.affinity) drawAffinity(), drawKept();
  drawLoad();
  drawLoadOfRanks();
}

function drawAll() {
  hideTip();
  drawLayer();
  if (shows.traffic) drawTraffic();
  if (shows.flow) data.plans.forEach((plan, p) => drawFlow(element(p ? "flow-after" : "flow-before"), plan));
}

for (const id of ["kept", "load", "load-ranks", "flow-before", "flow-after"]) if (element(id)) tipsIn(element(id));
element("traffic-table")?.addEventListener("toggle", (event) => fillTrafficTables(event.target.querySelector("div")));
let drawnAt = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnAt) return;  // phones resize when their bars come and go
  drawnAt = innerWidth;
  drawAll();
});
pickLayer(Math.floor((layers - 1) / 2));
drawAll();
