"use strict";
// Data, theme, colours, the hovering tip, and which layer is looked at. The charts are in heatmap.js and charts.js.

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const percent = (x, digits = 1) => (100 * x).toFixed(digits) + "\u00a0%";
const number = (x) => (x >= 100 ? Math.round(x).toLocaleString("en") : x >= 10 ? x.toFixed(1) : x.toFixed(2));
const layerName = (l) => `layer ${data.layer_ids[l]}`;

// ---- Theme ----

const probe = document.createElement("i");
probe.hidden = true;
document.body.append(probe);

/** The colour behind a CSS variable in the theme of the moment, as [r, g, b]. */
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
}
const css = (rgb) => `rgb(${rgb.join(" ")})`;

/** 256 steps from "nothing" to "most", as the page's theme has them. */
function heatRamp() {
  const stops = [0, 1, 2, 3, 4].map((i) => colour(`heat${i}`));
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((c, k) => Math.round(c + (stops[low + 1][k] - c) * (at - low)));
  });
}

element("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());

// ---- Tip ----

const tip = element("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(12, x + 14), innerWidth - box.width - 12);
  const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
  tip.style.left = left + "px";
  tip.style.top = Math.max(8, top) + "px";
}
const hideTip = () => { tip.hidden = true; };
addEventListener("scroll", hideTip, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

/** Marks inside `root` that carry data-tip show it to pointer and keyboard. */
function tipsIn(root) {
  root.addEventListener("pointermove", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (mark) showTip(mark.dataset.tip, event.clientX, event.clientY);
    else hideTip();
  });
  root.addEventListener("pointerleave", hideTip);
  root.addEventListener("focusin", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (!mark || !mark.matches(":focus-visible")) return;
    const box = mark.getBoundingClientRect();
    showTip(mark.dataset.tip, box.x + box.width / 2, box.y + box.height / 2);
  });
  root.addEventListener("focusout", hideTip);
}

// ---- The layer that is looked at ----

const layers = data.layer_ids.length;
let layer = 0;

/** The stored pair of layers (index into affinity.pairs) that is nearest to the layer. */
function storedPair() {
  let best = 0;
  data.affinity.pairs.forEach((l, i) => {
    if (Math.abs(l - layer) < Math.abs(data.affinity.pairs[best] - layer)) best = i;
  });
  return best;
}

function pickLayer(l) {
  layer = Math.min(Math.max(0, l), layers - 1);
  for (const input of document.querySelectorAll("input.layer")) {
    input.value = layer;
    input.setAttribute("aria-valuetext", layerName(layer));
  }
  const pairs = data.affinity.pairs;
  const l0 = pairs.length ? pairs[storedPair()] : 0;
  for (const output of document.querySelectorAll(".layer-name")) {
    output.textContent = pairs.length ? `${layerName(l0)} → ${data.layer_ids[l0 + 1]}` : "";
  }
  for (const output of document.querySelectorAll(".layer-name-single")) output.textContent = layerName(layer);
  drawLayer();
}

for (const input of document.querySelectorAll("input.layer")) {
  input.max = layers - 1;
  input.addEventListener("input", () => pickLayer(Number(input.value)));
}
for (const button of document.querySelectorAll("button.step")) {
  button.addEventListener("click", () => pickLayer(layer + Number(button.dataset.step)));
}
