"use strict";
// Opens the page: what is shown follows its address, #run, #trajectories or #t=step/question/sample.

class App {
  constructor(facts) {
    this.facts = facts;
    this.trajectories = new Trajectories(facts.index);
    this.browser = null; // built when it is first seen
    this.drawn = false; // are the curves
    showSummary(facts);
    addEventListener("hashchange", () => this.follow());
    document.addEventListener("keydown", (event) => this.key(event));
    document.getElementById("help-button").addEventListener("click", () => this.help.showModal());
  }

  get help() {
    return document.getElementById("help");
  }

  see(view) {
    for (const main of document.querySelectorAll(".view")) main.hidden = main.id !== view;
    for (const link of document.querySelectorAll("nav a")) link.classList.toggle("on", link.dataset.view === view);
    if (view === "trajectories") this.browser ??= new Browser(this.trajectories, this.facts.recorded);
    if (view !== "run" || this.drawn) return;
    this.drawn = true;
    showAblation(this.facts.ablation);
    showBreakdown(this.facts);
    showCurves(this.facts);
  }

  async follow() {
    const [, step, id, sample] = location.hash.match(/^#t=(\d+)\/([^/]*)\/(\d+)$/) ?? [];
    this.see(step !== undefined || location.hash === "#trajectories" ? "trajectories" : "run");
    if (step === undefined) return;
    await this.browser.ready;
    const found = this.trajectories.find(Number(step), decodeURIComponent(id), Number(sample));
    if (found === null) document.getElementById("nothing").textContent = "The trajectory that the address names is not in this report.";
    else await this.browser.select(found, "center");
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.help.open) return;
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const seen = this.browser && !document.getElementById("trajectories").hidden;
    const action = { ...this.keysAnywhere(), ...(seen ? this.keysOnTrajectories() : {}) }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  keysAnywhere() {
    return { "?": () => this.help.showModal(), 1: () => (location.hash = "run"), 2: () => (location.hash = "trajectories") };
  }

  keysOnTrajectories() {
    const { browser } = this;
    return {
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
  }
}

async function start() {
  await new App(await unpacked("facts")).follow();
  document.body.dataset.ready = "yes";
}

start();
