"use strict";
// One question: a right and a wrong answer side by side, as coloured tokens or as typeset text.

const DELIMITERS = [
  { left: "$$", right: "$$", display: true },
  { left: "\\[", right: "\\]", display: true },
  { left: "\\(", right: "\\)", display: false },
  { left: "$", right: "$", display: false },
];
const IN_MATH = /(\$\$[\s\S]*?\$\$|\\\[[\s\S]*?\\\]|\\\([\s\S]*?\\\)|\$[^$\n]*\$)/;
const BOX = /\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}/g; // with braces two deep inside

/** Typeset in place. The text is only ever text: KaTeX builds elements, follows no link and loads nothing (trust: false). */
function typeset(node, text) {
  // A box outside of formulas is how models end their answers.
  node.textContent = text.split(IN_MATH).map((part, i) => (i % 2 ? part : part.replace(BOX, (box) => `\\(${box}\\)`))).join("");
  try {
    renderMathInElement(node, { delimiters: DELIMITERS, throwOnError: false, strict: "ignore", trust: false, maxSize: 20, maxExpand: 200, errorCallback: () => {} });
  } catch {
    node.textContent = text; // braces thousands deep: more than the stack holds
  }
}

class Detail {
  constructor(trajectories) {
    this.all = trajectories;
    this.shown = null; // the selected trajectory
    this.partner = null; // the one beside it
    this.coloured = true;
    this.relative = true;
    this.turn = 0; // counts calls of show, of which the last one wins
    const tip = document.getElementById("tip");
    const sides = document.getElementById("sides");
    sides.addEventListener("mousemove", (event) => this.point(tip, event));
    sides.addEventListener("mouseleave", () => (tip.hidden = true));
    document.getElementById("mode").addEventListener("click", () => this.toggle("coloured"));
    document.getElementById("relative").addEventListener("click", () => this.toggle("relative"));
  }

  toggle(what) {
    this[what] = !this[what];
    if (this.shown !== null) this.draw();
  }

  async show(i) {
    const others = this.others(i);
    this.shown = i;
    if (!others.includes(this.partner)) this.partner = others.find((j) => this.all.index.trained[j]) ?? others[0] ?? null;
    await this.draw();
  }

  /** The answers to the same question that turned out otherwise. */
  others(i) {
    return this.all.ofQuestion[this.all.index.of[i]].filter((j) => this.all.side(j) !== this.all.side(i));
  }

  /** Another answer beside the selected one: step 1 or -1. */
  async next(step) {
    if (this.shown === null) return;
    const others = this.others(this.shown);
    if (!others.length) return;
    this.partner = others[(others.indexOf(this.partner) + step + others.length) % others.length];
    await this.draw();
  }

  async draw() {
    const turn = ++this.turn;
    const pair = [this.shown, this.partner].filter((i) => i !== null);
    const entries = await Promise.all(pair.map((i) => this.all.entry(i)));
    if (turn !== this.turn) return;
    const largest = Math.max(0, ...entries.flatMap((e) => (e.weights ? [e.weights.reduce((a, b) => Math.max(a, b), 0)] : [])));
    const bound = this.relative && largest > 0 ? largest : 1;
    this.drawQuestion();
    this.drawBar(bound, entries.some((e) => e.weights));
    const sides = pair.map((i, at) => this.side(i, entries[at], bound));
    if (pair.length < 2) sides.push(element("p", { className: "none quiet", textContent: "No answer to this question turned out otherwise." }));
    if (this.all.side(this.shown) === "wrong") sides.reverse(); // right on the left
    document.getElementById("sides").replaceChildren(...sides);
    document.getElementById("nothing").hidden = true;
    document.getElementById("tip").hidden = true;
  }

  drawQuestion() {
    const { index } = this.all;
    const question = index.of[this.shown];
    const text = element("div", { className: "text" });
    const gold = element("b");
    typeset(text, index.question[question]);
    typeset(gold, /[\\^_]/.test(index.gold[question]) && !index.gold[question].includes("$") ? `$${index.gold[question]}$` : index.gold[question]);
    const answers = this.all.ofQuestion[question];
    const right = answers.filter((i) => this.all.verdict(i) === "right").length;
    const where = `step ${index.step[question]} · question ${index.id[question]} · ${right} of ${answers.length} right · gold answer `;
    document.getElementById("question").replaceChildren(element("div", { className: "where" }, where, gold), text);
  }

  drawBar(bound, weighted) {
    document.getElementById("bar").hidden = false;
    document.getElementById("legend").className = weighted && this.coloured ? "" : "plain";
    for (const output of document.querySelectorAll("#legend .bound")) output.textContent = Number(bound.toPrecision(3));
    document.getElementById("relative").textContent = this.relative ? "scale: largest shown" : "scale: 0 to 1";
    document.getElementById("mode").textContent = this.coloured ? "typeset (t)" : "tokens (t)";
  }

  side(i, entry, bound) {
    const { index } = this.all;
    const side = this.all.side(i);
    const head = element("header", {}, element("b", { textContent: this.all.verdict(i) }), element("span", { textContent: `sample ${index.sample[i]}` }));
    const others = this.others(this.shown);
    if (i === this.partner && others.length > 1) {
      const button = (text, step) => element("button", { textContent: text, onclick: () => this.next(step) });
      head.append(element("span", { className: "turn quiet" }, button("‹", -1), ` ${others.indexOf(i) + 1} of ${others.length} `, button("›", 1)));
    }
    const facts = [
      ["answer", index.answer[i] || "none"],
      ["tokens", index.length[i]],
      ["verdict", index.reason[i]],
      ["ended by", index.finish[i]],
      ["version", index.version[i]],
    ].map(([name, value]) => element("span", {}, `${name} `, element("b", { textContent: value })));
    const body = element("div", { className: "response" });
    if (!this.coloured) typeset(body, entry.text);
    else if (entry.weights) this.colour(body, entry, bound);
    else body.textContent = entry.text;
    if (!entry.weights) facts.push(element("span", { textContent: "not trained on: no token weights" }));
    const node = element("section", { className: `side ${side}${i === this.shown ? " selected" : ""}` }, head, element("div", { className: "facts" }, ...facts), body);
    node.dataset.trajectory = i;
    return node;
  }

  colour(body, entry, bound) {
    body.classList.add("tokens");
    const [begin, end] = entry.wrong ?? [0, 0]; // characters of the text, as Python counts them
    let place = 0;
    entry.pieces.forEach((piece, at) => {
      const from = place;
      place += [...piece].length;
      const token = element("span", { className: from < end && place > begin ? "token wrong-step" : "token", textContent: piece });
      token.style.setProperty("--w", Math.min(entry.weights[at] / bound, 1).toFixed(4));
      token.dataset.at = at;
      body.append(token);
    });
    body.addEventListener("mouseover", (event) => {
      const { at } = event.target.dataset;
      if (at === undefined) return;
      const logprob = entry.logprobs[at];
      event.target.dataset.tip = `${JSON.stringify(entry.pieces[at])}\nweight ${entry.weights[at]}\nlog-probability ${logprob ?? "not known"}`;
    });
  }

  point(tip, event) {
    const text = event.target.dataset?.tip;
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 18, innerHeight - tip.offsetHeight - 8)}px`;
  }
}
