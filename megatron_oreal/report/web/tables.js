"use strict";
// The ablation, what a step's parts take, and the figures at the top.

function showSummary(facts) {
  const percent = (share) => (typeof share === "number" ? `${(100 * share).toFixed(1)} %` : null);
  const { summary, steps, recorded } = facts;
  const shown = [
    ["steps", summary.steps ?? (steps.length ? steps[steps.length - 1] : null)],
    ["seconds", summary.seconds],
    ["pass@1 at start", percent(summary.pass_at_1_start)],
    ["pass@1 at end", percent(summary.pass_at_1_end)],
    ["trajectories", recorded || null],
  ];
  for (const [name, value] of shown) {
    if (value === null || value === undefined) continue;
    const text = typeof value === "number" ? value.toLocaleString("en") : value;
    document.getElementById("summary").append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: text })));
  }
}

function showAblation(ablation) {
  if (!ablation) return;
  const section = document.getElementById("ablation");
  section.hidden = false;
  const number = { hozAlign: "right", headerHozAlign: "right", formatter: (cell) => cell.getValue().toFixed(1) };
  const rows = Object.entries(ablation.rows).map(([variant, values]) => {
    const percents = values.map((v) => 100 * v);
    const mean = percents.reduce((a, b) => a + b, 0) / percents.length;
    return { variant, mean, ...Object.fromEntries(percents.map((v, i) => [`seed${i}`, v])) };
  });
  new Tabulator(section.querySelector(".table").appendChild(element("div")), {
    data: rows,
    layout: "fitDataTable",
    columns: [
      { title: "variant", field: "variant", minWidth: 220 },
      ...ablation.seeds.map((seed, i) => ({ title: `seed ${seed}`, field: `seed${i}`, ...number })),
      { title: "mean", field: "mean", ...number },
    ],
  });
}

function showParts(into, parts) {
  const all = parts.reduce((sum, part) => sum + part.mean, 0);
  const named = (cell) => {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = cell.getData().color;
    return element("span", {}, swatch, cell.getValue());
  };
  new Tabulator(into.appendChild(element("div")), {
    data: parts.map((part) => ({ ...part, share: (100 * part.mean) / all })),
    layout: "fitColumns",
    columns: [
      { title: "part", field: "name", formatter: named },
      { title: "mean, s", field: "mean", width: 90, hozAlign: "right", headerHozAlign: "right", formatter: (cell) => cell.getValue().toFixed(3) },
      { title: "%", field: "share", width: 60, hozAlign: "right", headerHozAlign: "right", formatter: (cell) => cell.getValue().toFixed(1) },
    ],
  });
}
