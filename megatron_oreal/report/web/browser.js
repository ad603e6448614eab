"use strict";
// The list of trajectories: filters, search, selection.

const SEARCH_PAUSE_MS = 200;

const RIGHT = { hozAlign: "right", headerHozAlign: "right" };
const COLUMNS = [
  { title: "step", field: "step", width: 52, ...RIGHT },
  { title: "question", field: "question", minWidth: 84 },
  { title: "#", field: "sample", width: 42, ...RIGHT },
  { title: "verdict", field: "verdict", width: 84, formatter: (cell) => element("span", { className: `dot ${cell.getValue()}`, textContent: cell.getValue() }) },
  { title: "tokens", field: "length", width: 62, ...RIGHT },
  { title: "answer", field: "answer", minWidth: 60 },
  { title: "w", field: "trained", width: 34, headerTooltip: "trained on: has token weights", hozAlign: "center" },
];

class Browser {
  constructor(trajectories, recorded) {
    this.all = trajectories;
    this.detail = new Detail(trajectories);
    this.hits = null; // what the search found so far; null: nothing is searched for
    this.searches = 0; // counts searches, of which the last one goes on
    this.selected = null;
    this.greet(recorded);
    this.listen();
    this.ready = this.build();
  }

  greet(recorded) {
    const { index, count } = this.all;
    const more = recorded > count ? ` of ${recorded.toLocaleString("en")} recorded` : "";
    document.getElementById("nothing").textContent = count
      ? `${count.toLocaleString("en")} trajectories${more}. Choose one: j and k go through the list, ? shows all keys.`
      : "This run recorded no trajectories: record=true writes them.";
    const steps = [...new Set(index.step)];
    document.getElementById("step").append(new Option("all", ""), ...steps.map((step) => new Option(step, step)));
  }

  listen() {
    const filters = document.getElementById("filters");
    filters.addEventListener("submit", (event) => event.preventDefault());
    filters.addEventListener("reset", () => setTimeout(() => this.search("")));
    filters.addEventListener("change", () => this.filter());
    for (const id of ["shortest", "longest"]) document.getElementById(id).addEventListener("input", () => this.filter());
    let pause;
    document.getElementById("search").addEventListener("input", (event) => {
      clearTimeout(pause);
      pause = setTimeout(() => this.search(event.target.value), SEARCH_PAUSE_MS);
    });
  }

  build() {
    const { index, count } = this.all;
    this.table = new Tabulator("#list", {
      index: "id",
      data: index.of.map((question, id) => ({
        id,
        step: index.step[question],
        question: index.id[question],
        sample: index.sample[id],
        verdict: this.all.verdict(id),
        length: index.length[id],
        answer: index.answer[id],
        trained: index.trained[id] ? "✓" : "",
      })),
      height: "100%",
      layout: "fitColumns",
      rowHeight: 28,
      selectableRows: 1,
      placeholder: "none like this",
      columns: COLUMNS,
    });
    this.table.on("rowClick", (_, row) => this.select(row.getData().id));
    this.table.on("dataFiltered", (_, rows) => {
      document.getElementById("found").textContent = `${rows.length.toLocaleString("en")} of ${count.toLocaleString("en")}`;
    });
    return new Promise((done) => this.table.on("tableBuilt", () => done(this.filter())));
  }

  filter() {
    const value = (id) => document.getElementById(id).value;
    const [step, verdict, trained] = [value("step"), value("verdict"), document.getElementById("trained").checked];
    const [shortest, longest] = [Number(value("shortest")), Number(value("longest") || Infinity)];
    this.table.setFilter(
      (row) =>
        (!step || row.step === Number(step)) &&
        (!verdict || row.verdict === verdict) &&
        (!trained || row.trained) &&
        row.length >= shortest &&
        row.length <= longest &&
        (!this.hits || this.hits.has(row.id)),
    );
  }

  /** Through all texts, block by block; the list shows what has been found at once. */
  async search(words) {
    const mine = ++this.searches;
    const progress = document.getElementById("progress");
    this.hits = words ? new Set() : null;
    progress.hidden = !words;
    let shownAt = performance.now();
    if (words) {
      await this.all.search(words, (hits, share) => {
        if (mine !== this.searches) return false;
        progress.value = share;
        this.hits = hits;
        if (performance.now() - shownAt > 300) {
          this.filter();
          shownAt = performance.now();
        }
        return true;
      });
    }
    if (mine !== this.searches) return;
    progress.hidden = true;
    this.filter();
  }

  /** Show a trajectory, and put it into the page's address; `where`: scroll the list to it, "nearest" or "center". */
  async select(id, where = null) {
    this.selected = id;
    history.replaceState(null, "", this.all.address(id));
    this.table.deselectRow();
    this.table.selectRow(id);
    if (where) this.table.scrollToRow(id, where, false).catch(() => {}); // refuses a row that the filter has taken away
    await this.detail.show(id);
  }

  /** The next row that the list shows, or the one before (step -1). */
  async move(step) {
    const rows = this.table.getData("active");
    const at = rows.findIndex((row) => row.id === this.selected);
    const row = rows[at < 0 ? 0 : Math.min(Math.max(at + step, 0), rows.length - 1)];
    if (row) await this.select(row.id, "nearest");
  }
}
