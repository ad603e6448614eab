"use strict";
// Opens the page: what is shown follows its address, #run, #trajectories or #t=step/question/sample.

async function start() {
  const facts = await unpacked("facts");
  const trajectories = new Trajectories(facts.index);
  let browser = null; // built when it is first seen
  let drawn = false;
  showSummary(facts);

  function see(view) {
    for (const main of document.querySelectorAll(".view")) main.hidden = main.id !== view;
    for (const link of document.querySelectorAll("nav a")) link.classList.toggle("on", link.dataset.view === view);
    if (view === "run" && !drawn) {
      drawn = true;
      showAblation(facts.ablation);
      showBreakdown(facts);
      showCurves(facts);
    }
    if (view === "trajectories") browser ??= new Browser(trajectories, facts.recorded);
  }

  async function follow() {
    const [, step, id, sample] = location.hash.match(/^#t=(\d+)\/([^/]*)\/(\d+)$/) ?? [];
    see(step !== undefined || location.hash === "#trajectories" ? "trajectories" : "run");
    if (step === undefined) return;
    await browser.ready;
    const found = trajectories.find(Number(step), decodeURIComponent(id), Number(sample));
    if (found !== null) {
      await browser.select(found);
      await browser.table.scrollToRow(found, "center", true).catch(() => {});
    } else document.getElementById("nothing").textContent = "The trajectory that the address names is not in this report.";
  }

  const help = document.getElementById("help");
  const onTrajectories = {
    j: () => browser.move(1),
    ArrowDown: () => browser.move(1),
    k: () => browser.move(-1),
    ArrowUp: () => browser.move(-1),
    t: () => browser.detail.toggle("coloured"),
    s: () => browser.detail.toggle("relative"),
    "[": () => browser.detail.next(-1),
    "]": () => browser.detail.next(1),
    "/": () => document.getElementById("search").focus(),
  };
  const anywhere = { "?": () => help.showModal(), 1: () => (location.hash = "run"), 2: () => (location.hash = "trajectories") };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const action = anywhere[event.key] ?? (browser && !document.getElementById("trajectories").hidden ? onTrajectories[event.key] : undefined);
    if (!action) return;
    event.preventDefault();
    action();
  });
  document.getElementById("help-button").addEventListener("click", () => help.showModal());
  addEventListener("hashchange", follow);
  await follow();
  document.body.dataset.ready = "yes";
}

start();
