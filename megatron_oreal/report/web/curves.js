"use strict";
// Every metric of metrics.jsonl by the part of its name before the slash, and where a step's time goes.

const FIRST = ["reward", "eval", "loss", "token_rm", "token_weight", "policy", "grad_norm", "lr", "response", "logprob", "perf", "memory"];
const PALETTE = ["#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#e15759", "#edc948", "#9c755f", "#ff9da7", "#8cd17d", "#bab0ac"];
const INSIDE = { "time/verify_tail": "time/rollout" }; // parts of others, as is time/a_b of time/a

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (v) => (v === null || v === undefined ? "" : Number(v.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 }));

function axes() {
  const grid = { stroke: color("--line"), width: 1 };
  const axis = { stroke: color("--quiet"), grid, ticks: grid, font: "11px system-ui, sans-serif" };
  return [
    { ...axis, space: 50, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000], size: 26 },
    { ...axis, size: 52, values: (_, ticks) => ticks.map(short) },
  ];
}

/** Chart and line that a metric belongs to: all ages of one (versions behind) are drawn together, and their mean with their most. */
function placeOf(name) {
  const [, whole, age] = name.match(/^(.+)_age(\d+)$/) ?? [];
  if (whole) return [`${whole} by age`, age];
  const [, ages, which] = name.match(/^(rollout\/age)_(mean|max)$/) ?? [];
  return ages ? [ages, which] : [name, ""];
}

/** One chart of lines {label, values}; the reading above follows the cursor, in all charts alike. */
function curve(into, name, steps, lines) {
  const reading = element("output");
  into.append(element("h4", {}, name, reading));
  const colorOf = (at) => (lines.length > 1 ? PALETTE[at % PALETTE.length] : color("--accent"));
  const say = (i) => {
    const now = lines.map(({ values }) => (i === null ? values.findLast((v) => v !== null) : values[i]));
    const words = lines.map(({ label }, at) => element("span", { style: label && `color: ${colorOf(at)}` }, `${label} ${short(now[at])} `.trimStart()));
    const known = now.some((v) => v !== null && v !== undefined);
    reading.replaceChildren(...(known ? [i === null ? "" : `${steps[i]}: `, ...words.filter((_, at) => now[at] !== null)] : []));
  };
  const sparse = lines[0].values.filter((v) => v !== null).length < 40;
  new uPlot(
    {
      width: Math.max(into.clientWidth - 22, 240),
      height: 150,
      legend: { show: false },
      cursor: { sync: { key: "steps" }, y: false, points: { size: 6 } },
      scales: { x: { time: false } },
      axes: axes(),
      series: [{}, ...lines.map((_, at) => ({ stroke: colorOf(at), width: 1.6, spanGaps: true, points: { show: sparse, size: 4 } }))],
      hooks: { setCursor: [(plot) => say(plot.cursor.idx ?? null)] },
    },
    [steps, ...lines.map(({ values }) => values)],
    into,
  );
  say(null);
}

function showCurves({ steps, metrics }) {
  const groups = new Map();
  const constant = [];
  for (const [name, values] of Object.entries(metrics)) {
    if (name.startsWith("time/")) continue;
    const known = values.filter((v) => v !== null);
    if (!known.length || (known.length > 1 && known.every((v) => v === known[0]))) constant.push(`${name} ${known.length ? short(known[0]) : "not finite"}`);
    else {
      const [group, [chart, label]] = [name.split("/")[0], placeOf(name)];
      if (!groups.has(group)) groups.set(group, new Map());
      groups.get(group).set(chart, [...(groups.get(group).get(chart) ?? []), { label, values }]);
    }
  }
  const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  const into = document.querySelector("#curves .groups");
  for (const group of [...groups.keys()].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))) {
    const grid = element("div");
    into.append(element("div", { className: "group" }, element("h3", { textContent: group }), grid));
    for (const [name, lines] of groups.get(group)) {
      const card = element("div", { className: "chart" });
      card.dataset.metric = name;
      grid.append(card);
      curve(card, name, steps, lines);
    }
  }
  if (!steps.length) into.append(element("p", { className: "quiet", textContent: "No step is finished yet." }));
  if (constant.length) document.getElementById("constant").textContent = `The same in every step: ${constant.join(", ")}.`;
  document.getElementById("metric-filter").addEventListener("input", (event) => {
    for (const card of into.querySelectorAll(".chart")) card.hidden = !card.dataset.metric.includes(event.target.value);
    for (const group of into.querySelectorAll(".group")) group.hidden = !group.querySelector(".chart:not([hidden])");
  });
}

/** The parts of a step, none of which lies in another: {name, values, mean}; what no part accounts for is "other". */
function partsOf({ metrics }, rows) {
  const names = Object.keys(metrics).filter((name) => name.startsWith("time/") && name !== "time/step" && name !== "time/elapsed");
  const within = (name) => INSIDE[name] ?? names.find((other) => name.startsWith(`${other}_`));
  const parts = names
    .filter((name) => !names.includes(within(name)))
    .map((name) => ({ name: name.slice("time/".length), values: rows.map((i) => metrics[name][i] ?? 0) }));
  const whole = metrics["time/step"];
  const other = rows.map((i, at) => Math.max((whole[i] ?? 0) - parts.reduce((sum, part) => sum + part.values[at], 0), 0));
  parts.push({ name: "other", values: other });
  return parts.map((part, i) => ({
    ...part,
    color: PALETTE[i % PALETTE.length],
    mean: part.values.reduce((a, b) => a + b, 0) / rows.length,
  }));
}

function showBreakdown(facts) {
  const whole = facts.metrics["time/step"] ?? [];
  const rows = facts.steps.map((_, i) => i).filter((i) => (whole[i] ?? null) !== null);
  if (!rows.length) return;
  const section = document.getElementById("breakdown");
  section.hidden = false;
  const parts = partsOf(facts, rows);
  const tops = []; // of each part, the sum of it and those below
  for (const part of parts) tops.push(part.values.map((v, i) => v + (tops.length ? tops[tops.length - 1][i] : 0)));
  const stacked = parts.map((part, i) => ({ part, top: tops[i] })).reverse(); // the tallest is drawn first
  const into = section.querySelector(".chart");
  new uPlot(
    {
      width: Math.max(into.clientWidth - 22, 300),
      height: 250,
      legend: { show: false },
      cursor: { sync: { key: "steps" }, y: false, points: { show: false } },
      scales: { x: { time: false, range: (_, low, high) => [low - 0.6, high + 0.6] }, y: { range: (_, low, high) => [0, high * 1.05] } },
      axes: axes(),
      series: [{}, ...stacked.map(({ part }) => ({ fill: part.color, stroke: part.color, width: 0, paths: uPlot.paths.bars({ size: [0.8, 60] }), points: { show: false } }))],
    },
    [rows.map((i) => facts.steps[i]), ...stacked.map(({ top }) => top)],
    into,
  );
  showParts(section.querySelector(".table"), parts);
}
