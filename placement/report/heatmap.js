// Heatmaps on <canvas>: affinity between two layers, traffic between ranks.

const heatmaps = new Map();  // canvas -> what was last drawn on it

/**
 * Draws rows x columns cells. `map`: size, value(r, c) in [0, 1], tip(r, c), bands [{from, to, label}] (borders and labels of
 * both axes), blocks [{from, to, top, bottom}] (outlines), number(r, c) (text in cells that have room).
 */
function drawHeatmap(canvas, map) {
  const ramp = heatRamp();
  const scale = devicePixelRatio || 1;
  const width = Math.min(canvas.parentElement.clientWidth, map.widest || 560);
  const labels = map.bands.length <= 32 && map.bands.length > 1;
  const margin = labels ? 24 : 2;
  const inner = width - margin - 2;
  const cell = inner / map.size;
  canvas.style.width = width + "px";
  canvas.style.height = width + "px";
  canvas.width = canvas.height = Math.round(width * scale);

  const cells = new OffscreenCanvas(map.size, map.size);
  const pixels = new ImageData(map.size, map.size);
  for (let r = 0; r < map.size; ++r) {
    for (let c = 0; c < map.size; ++c) {
      const rgb = ramp[Math.round(255 * Math.min(1, map.value(r, c)))];
      pixels.data.set([rgb[0], rgb[1], rgb[2], 255], 4 * (r * map.size + c));
    }
  }
  cells.getContext("2d").putImageData(pixels, 0, 0);

  const g = canvas.getContext("2d");
  g.scale(scale, scale);
  g.imageSmoothingEnabled = cell * scale < 1;
  g.drawImage(cells, margin, margin, inner, inner);

  g.strokeStyle = css(colour("line"));
  g.lineWidth = 1;
  g.globalAlpha = 0.7;
  for (const band of map.bands) {
    const at = margin + band.from * cell;
    if (inner / map.bands.length < 6) break;
    g.beginPath();
    g.moveTo(margin, at), g.lineTo(margin + inner, at);
    g.moveTo(at, margin), g.lineTo(at, margin + inner);
    g.stroke();
  }
  g.globalAlpha = 1;
  g.strokeStyle = css(colour("block"));
  g.lineWidth = inner / Math.max(1, map.blocks?.length || 0) < 12 ? 0.7 : 1.5;
  for (const b of map.blocks || []) {
    g.strokeRect(margin + b.from * cell, margin + b.top * cell, (b.to - b.from) * cell, (b.bottom - b.top) * cell);
  }

  g.font = "12px system-ui, sans-serif";
  g.textAlign = "center";
  g.textBaseline = "middle";
  if (labels) {
    g.fillStyle = css(colour("soft"));
    let last = -99;
    for (const band of map.bands) {
      const middle = margin + ((band.from + band.to) / 2) * cell;
      if (middle - last < 16) continue;
      last = middle;
      g.fillText(band.label, middle, margin / 2);
      g.fillText(band.label, margin / 2, middle);
    }
  }
  if (map.number && cell >= 30) {
    g.font = `${cell >= 44 ? 13 : 11}px system-ui, sans-serif`;
    for (let r = 0; r < map.size; ++r) {
      for (let c = 0; c < map.size; ++c) {
        const [red, green, blue] = ramp[Math.round(255 * Math.min(1, map.value(r, c)))];
        g.fillStyle = 0.3 * red + 0.59 * green + 0.11 * blue > 125 ? "#0b0f14" : "#ffffff";
        g.fillText(map.number(r, c), margin + (c + 0.5) * cell, margin + (r + 0.5) * cell);
      }
    }
  }
  canvas.setAttribute("aria-label", map.label);
  if (!heatmaps.has(canvas)) listenTo(canvas);
  heatmaps.set(canvas, { map, margin, cell, at: heatmaps.get(canvas)?.at || [0, 0] });
}

function listenTo(canvas) {
  const tell = (r, c, x, y) => {
    const { map } = heatmaps.get(canvas);
    if (r < 0 || c < 0 || r >= map.size || c >= map.size) return hideTip();
    heatmaps.get(canvas).at = [r, c];
    showTip(map.tip(r, c), x, y);
  };
  const pointer = (event) => {
    const { margin, cell } = heatmaps.get(canvas);
    const box = canvas.getBoundingClientRect();
    tell(Math.floor((event.clientY - box.y - margin) / cell), Math.floor((event.clientX - box.x - margin) / cell),
         event.clientX, event.clientY);
  };
  canvas.addEventListener("pointermove", pointer);
  canvas.addEventListener("pointerdown", pointer);
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("blur", hideTip);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const { map, margin, cell, at } = heatmaps.get(canvas);
    const [r, c] = at.map((x, i) => Math.min(Math.max(0, x + step[i]), map.size - 1));
    const box = canvas.getBoundingClientRect();
    tell(r, c, box.x + margin + (c + 0.5) * cell, box.y + margin + (r + 0.5) * cell);
  });
}

// ---- Affinity ----

const affinityBytes = Uint8Array.from(atob(data.affinity.bytes), (ch) => ch.charCodeAt(0));

/** Experts of a layer sorted by rank, and the bands of the ranks. */
function sorted(plan, l) {
  const order = plan.owner[l].map((_, e) => e).sort((a, b) => plan.owner[l][a] - plan.owner[l][b] || a - b);
  const bands = [];
  order.forEach((e, i) => {
    const rank = plan.owner[l][e];
    if (bands.length && bands.at(-1).rank === rank) bands.at(-1).to = i + 1;
    else bands.push({ rank, from: i, to: i + 1, label: String(rank) });
  });
  return { order, bands };
}

function drawAffinity() {
  if (!data.affinity.pairs.length) return;
  const experts = data.experts;
  const pair = storedPair();
  const l = data.affinity.pairs[pair];
  const bytes = affinityBytes.subarray(pair * experts * experts, (pair + 1) * experts * experts);
  const largest = data.affinity.largest[pair];
  data.plans.forEach((plan, p) => {
    const from = sorted(plan, l);
    const to = sorted(plan, l + 1);
    const blocks = from.bands.flatMap((a) => to.bands.filter((b) => a.rank === b.rank)
      .map((b) => ({ top: a.from, bottom: a.to, from: b.from, to: b.to })));
    const byte = (r, c) => bytes[from.order[r] * experts + to.order[c]];
    drawHeatmap(element(p ? "affinity-after" : "affinity-before"), {
      size: experts,
      bands: from.bands,
      blocks,
      value: (r, c) => byte(r, c) / 255,
      tip: (r, c) => {
        const [i, j] = [from.order[r], to.order[c]];
        const [a, b] = [plan.owner[l][i], plan.owner[l + 1][j]];
        const weight = largest * (byte(r, c) / 255) ** 2;
        return `expert ${i} → expert ${j}\n${weight < 5e-5 ? "hardly any" : `about ${percent(weight, 2)}`} of the weight\n` +
               (a === b ? `both on rank ${a}` : `rank ${a} → rank ${b}`);
      },
      label: `Affinity from ${layerName(l)} to ${layerName(l + 1)}, ${plan.name}: ${percent(plan.kept[l])} stays on a rank. ` +
             "Arrow keys move from cell to cell.",
    });
    element(p ? "affinity-after-kept" : "affinity-before-kept").textContent = `${percent(plan.kept[l])} stays`;
  });
  element("affinity-top").textContent = `${percent(largest, 2)} of the weight`;
}

// ---- Traffic ----

function drawTraffic() {
  const groups = data.traffic.groups;
  const alone = groups.length === data.ranks;  // otherwise a group also sends to itself
  const largest = Math.max(...data.plans.flatMap((plan) => plan.traffic.flat()), 1e-9);
  const bands = groups.map((group, g) => ({ from: g, to: g + 1, label: group.short }));
  const nodes = [];
  groups.forEach((group, g) => {
    if (nodes.at(-1)?.node === group.node) nodes.at(-1).to = nodes.at(-1).bottom = g + 1;
    else nodes.push({ node: group.node, from: g, top: g, to: g + 1, bottom: g + 1 });
  });
  data.plans.forEach((plan, p) => {
    const sum = plan.traffic.flat().reduce((a, b) => a + b, 0);
    drawHeatmap(element(p ? "traffic-after" : "traffic-before"), {
      size: groups.length,
      widest: Math.max(320, Math.min(560, groups.length * 90)),
      bands,
      blocks: data.traffic.nodes > 1 && alone ? nodes : [],
      value: (r, c) => plan.traffic[r][c] / largest,
      number: (r, c) => (r === c && alone ? "" : plan.traffic[r][c].toFixed(plan.traffic[r][c] < 10 ? 1 : 0)),
      tip: (r, c) => (r === c && alone ? `${groups[r].name} to itself: nothing is sent`
        : `${groups[r].name} → ${groups[c].name}\n${number(plan.traffic[r][c])} rows per 1,000 tokens and layer`),
      label: `Rows between ranks, ${plan.name}: ${number(sum)} per 1,000 tokens and layer. Arrow keys move from cell to cell.`,
    });
    element(p ? "traffic-after-sum" : "traffic-before-sum").textContent = `${number(sum)} rows in all`;
  });
  element("traffic-top").textContent = `${number(largest)} rows`;
}

function fillTrafficTables(holder) {
  if (holder.childElementCount) return;
  const cell = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  const names = data.traffic.groups.map((group) => group.short);
  for (const plan of data.plans) {
    const table = document.createElement("table");
    table.append(cell("caption", `${plan.name}: rows per 1,000 tokens and layer, from (row) to (column)`));
    table.createTHead().insertRow().append(cell("th", "rank"), ...names.map((name) => cell("th", name)));
    plan.traffic.forEach((row, r) => {
      table.insertRow().append(cell("th", names[r]), ...row.map((x, c) => cell("td", r === c && !x ? "–" : number(x))));
    });
    holder.append(table);
  }
}
