"use strict";
// What the page holds: the facts at once, the trajectories' text in blocks that are opened when needed.

const BLOCKS_KEPT = 40; // open at a time; one is some 2 MB of text

/** The JSON in an element: base64 of gzip. */
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

class Trajectories {
  constructor(index) {
    this.index = index;
    this.count = index.of.length;
    this.open = new Map(); // block -> promise of its entries, the most recently used last
    this.ofQuestion = index.id.map(() => []);
    index.of.forEach((question, i) => this.ofQuestion[question].push(i));
  }

  /** right, wrong or undecided. */
  verdict(i) {
    return !this.index.decided[i] ? "undecided" : this.index.reward[i] > 0 ? "right" : "wrong";
  }

  /** Which side of the page: an undecided answer that counts as wrong is on the wrong side. */
  side(i) {
    return this.index.reward[i] > 0 ? "right" : this.index.reward[i] < 0 ? "wrong" : "undecided";
  }

  block(number) {
    const entries = this.open.get(number) ?? unpacked(`block-${number}`);
    this.open.delete(number);
    this.open.set(number, entries);
    if (this.open.size > BLOCKS_KEPT) this.open.delete(this.open.keys().next().value);
    return entries;
  }

  /** {text, where trained: pieces, weights, logprobs, where marked: wrong} */
  async entry(i) {
    const { block } = this.index;
    let number = block.length - 1;
    while (block[number] > i) number--;
    return (await this.block(number))[i - block[number]];
  }

  /** Whose question or response contains the words, upper case or lower; `found(set, share done)` is called as it goes on, until it returns false. */
  async search(words, found) {
    const pattern = new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i");
    const questions = this.index.question.map((question) => pattern.test(question));
    const hits = new Set();
    for (let number = 0; number < this.index.block.length; number++) {
      const first = this.index.block[number];
      (await this.block(number)).forEach((entry, place) => {
        if (questions[this.index.of[first + place]] || pattern.test(entry.text)) hits.add(first + place);
      });
      if (!found(hits, (number + 1) / this.index.block.length)) return;
    }
  }

  /** As in the page's address; null where there is no such trajectory. */
  find(step, id, sample) {
    const question = this.index.id.findIndex((name, q) => name === id && this.index.step[q] === step);
    return this.ofQuestion[question]?.find((i) => this.index.sample[i] === sample) ?? null;
  }

  address(i) {
    const question = this.index.of[i];
    return `#t=${this.index.step[question]}/${encodeURIComponent(this.index.id[question])}/${this.index.sample[i]}`;
  }
}

/** An element with these properties and children; strings become text, never markup. */
function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}
