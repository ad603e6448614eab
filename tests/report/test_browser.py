"""Reports in a real headless browser, from file:// addresses: what a person would see, and that nothing a model wrote does anything."""

import json
import re
from pathlib import Path

import pytest

from megatron_oreal.monitor.recorded import FOLDER, Marked, Weighted, write_marks, write_step
from megatron_oreal.report import command as report
from tests.report import synthetic

MANY_LOAD_S, MANY_FILTER_S, MANY_SEARCH_S = 8, 2, 8
HOSTILE = (
    "</script><script>window.hit = 1</script> <img src=x onerror='window.hit = 1'> <!-- \u2028 \u2029 \x00 "
    "\\(\\href{javascript:window.hit=1}{x}\\) \\(\\includegraphics{http://127.0.0.1:1/x.png}\\) \\(\\htmlData{a=b}{x}\\) "
    "\\boxed{<b>bold</b>} ${window.hit = 1} $\\frac{$ $\\def\\a{\\a\\a}\\a$ $$" + "{" * 3000 + "$$ \\boxed{" + "\\boxed{" * 3000
)
DEEP = "$$" + "{" * 30_000 + "x" + "}" * 30_000 + "$$ window.hit = 1"  # deeper than the stack of KaTeX's parser
PIECES = ["Then ", "$x", "^2$", " is ", "\\boxed{", "4", "}", "<|im_end|>"]
WEIGHTS = [0.0, 0.1, 0.05, 0.2, 0.0, 0.4, 0.3, 0.0]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The report of 12 steps, two of them recorded; the second has a question that is hostile throughout."""
    run = tmp_path_factory.mktemp("small") / "a <b>run"
    synthetic.write_metrics(run, 12, **{"odd/<img src=x onerror='window.hit = 1'>": 1.0, "odd/other": float(3)})
    (run / "ablation.json").write_text(json.dumps({"start": {"7": 0.5, "8": 0.25}, "REINFORCE": {"7": 0.875, "8": 0.9375}}))
    text = "Then $x^2$ is \\boxed{4}"
    plain = [
        (text, PIECES, True),
        ("I say \\boxed{5}", ["I", " say", " \\boxed{5}"], False),
        ("So 6, $\\frac{12}{2}$", ["So", " 6"], False),
    ]
    write_step(run / FOLDER, 1, [synthetic.group("1#0", "What is $2^2$?", "4", plain)])
    synthetic.write_weights(
        run, 1, [Weighted("1#0", 0, PIECES, WEIGHTS), Weighted("1#0", 1, ["I", " say", " \\boxed{5}"], [0.2, 0.0, 0.1])]
    )
    write_marks(run / FOLDER, 1, [Marked("1#0", 1, 1, 5)])
    hostile = [(HOSTILE, [HOSTILE, "<i>", "\u2028"], True), (DEEP, ["x"], False)]
    undecided = [("one", ["one"], True), ("two", ["two"], False)]
    groups = [
        synthetic.group(f"2/{HOSTILE[:40]}", HOSTILE, HOSTILE, hostile),
        synthetic.group("3#5", "Can you tell?", "1", undecided, left_out=True),
    ]
    write_step(run / FOLDER, 2, groups)
    synthetic.write_weights(run, 2, [Weighted(f"2/{HOSTILE[:40]}", 0, [HOSTILE, "<i>", "\u2028"], [1.0, 0.5, 0.25])])
    assert report.main([str(run)]) == 0
    return run / "report.html"


def rows(page, table: str = "#list") -> list[str]:
    """The rows that a table shows, cells joined by a bar."""
    cells = "[...row.querySelectorAll('.tabulator-cell')].map(cell => cell.innerText).join('|')"
    return page.run(f"return [...document.querySelectorAll('{table} .tabulator-row')].map(row => {cells})")


def test_figures_curves_and_tables_are_there_without_a_network(page, small):
    page.open(small)
    assert page.text("h1") == "a <b>run"
    assert re.sub(r"\s+", " ", page.text("#summary")) == "steps 12 seconds 12.5 pass@1 at start 25.0 % pass@1 at end 75.0 % trajectories 7"
    names = page.run("return [...document.querySelectorAll('#curves .chart')].map(c => c.dataset.metric)")
    assert names == ["reward/mean", "eval/pass_at_1", "loss/total"]
    ink = """return [...document.querySelectorAll('.chart canvas')].map(c => {
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = new Set();
        for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 200) seen.add(`${d[i]},${d[i + 1]},${d[i + 2]}`);
        return [...seen];
    })"""
    breakdown, *curves = page.run(ink)
    assert len(curves) == 3 and all("37,99,235" in colours for colours in curves)
    assert {"78,121,167", "242,142,43", "89,161,79", "176,122,161"} <= set(breakdown), (
        "rollout, policy, sync and the rest have a colour each"
    )
    assert rows(page, "#breakdown") == ["rollout|3.000|42.9", "policy|2.000|28.6", "sync|1.000|14.3", "other|1.000|14.3"]
    assert rows(page, "#ablation") == ["start|50.0|25.0|37.5", "REINFORCE|87.5|93.8|90.6"]
    assert "select/questions 4" in page.text("#constant")
    page.fill("metric-filter", "loss")
    assert page.run("return [...document.querySelectorAll('#curves .chart:not([hidden])')].length") == 1
    assert page.requests() == {f"file://{small}".replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")}
    assert page.complaints() == []


def test_a_continuous_run_shows_how_old_its_questions_are_and_what_each_age_differs_by(page, tmp_path):
    rows = [
        {"step": step, "rollout/age_mean": step / 4, "rollout/age_max": step, "logprob/diff_mean": step / 10}
        | {f"logprob/diff_mean_age{age}": step * (age + 1) / 100 for age in range(min(step, 3))}
        for step in range(1, 6)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report.main([str(tmp_path)]) == 0
    page.open(tmp_path / "report.html")
    shown = page.run(
        "return [...document.querySelectorAll('#curves .chart')].map(c => [c.dataset.metric, c.querySelector('output').innerText.trim()])"
    )
    assert shown == [
        ["logprob/diff_mean", "0.5"],
        ["logprob/diff_mean by age", "0 0.05 1 0.1 2 0.15"],
        ["rollout/age", "mean 1.25 max 5"],
    ]
    spans = "[...document.querySelectorAll('#curves .chart')[1].querySelectorAll('output span')]"
    assert len(set(page.run(f"return {spans}.map(span => span.style.color)"))) == 3
    assert page.complaints() == []


def test_filters_search_and_keys(page, small):
    page.open(small, "#trajectories")
    page.wait("return document.getElementById('found').innerText === '7 of 7'")
    assert rows(page)[0] == "1|1#0|0|right|8|4|✓"
    for filters, expected in (
        ({"step": "2"}, 4),
        ({"verdict": "wrong"}, 3),
        ({"verdict": "undecided"}, 1),
        ({"shortest": "2", "longest": "3"}, 3),
        ({"verdict": "right", "step": "1"}, 1),
    ):
        for field, value in filters.items():
            page.fill(field, value)
        assert len(rows(page)) == expected, filters
        page.run("document.querySelector('#filters [type=reset]').click()")
        page.wait("return document.getElementById('found').innerText === '7 of 7'")
    page.run("document.getElementById('trained').click()")
    assert [row.split("|")[-1] for row in rows(page)] == ["✓"] * 3
    page.run("document.getElementById('trained').click()")
    page.press("/", "SAY \\", "")
    page.wait("return document.getElementById('found').innerText === '1 of 7'")
    assert rows(page) == ["1|1#0|1|wrong|3|5|✓"]
    page.press("\ue00c", "j")  # Escape leaves the field, else the letter would be typed
    page.wait("return location.hash === '#t=1/1%230/1'")
    page.fill("search", "")
    page.wait("return document.getElementById('found').innerText === '7 of 7'")
    page.press("j")
    page.wait("return location.hash === '#t=1/1%230/2'")
    page.press("k", "\ue013")  # k, then the arrow up
    page.wait("return location.hash === '#t=1/1%230/0' && document.querySelector('.side.selected').dataset.trajectory === '0'")
    assert page.text(".side.wrong .turn").split() == ["‹", "1", "of", "2", "›"]
    page.press("]")
    page.wait("return document.querySelector('.side.wrong').dataset.trajectory === '2'")
    assert "not trained on: no token weights" in page.text(".side.wrong") and page.count(".side.wrong .token") == 0
    page.press("?")
    assert page.run("return document.getElementById('help').open")
    page.press("\ue00c", "1")
    page.wait("return document.getElementById('trajectories').hidden && !document.getElementById('run').hidden")
    assert page.complaints() == []


def test_colours_are_the_weights_and_formulas_are_typeset(page, small):
    page.open(small, "#t=1/1%230/0")
    page.wait("return document.querySelectorAll('.side').length === 2")
    colours = "return [...document.querySelectorAll('.side.right .token')].map(t => [t.textContent, getComputedStyle(t).backgroundColor])"

    def alphas() -> list[float]:
        shown = page.run(colours)
        assert [piece for piece, _ in shown] == PIECES
        return [float(colour.rpartition("/")[2].rstrip(") ")) if "/" in colour else 0.0 for _, colour in shown]

    assert alphas() == pytest.approx([0.7 * w / 0.4 for w in WEIGHTS], abs=2e-3), "the largest weight shown has the full colour"
    assert re.sub(r"\s+", " ", page.text("#legend")) == "wrong 0.4 0.4 right scale: largest shown"
    page.press("s")
    page.wait("return document.querySelector('#legend .bound').textContent === '1'")
    assert alphas() == pytest.approx([0.7 * w for w in WEIGHTS], abs=2e-3)
    assert page.run(
        "const [r, w] = document.querySelectorAll('.side'); return r.className.includes('right') && w.className.includes('wrong')"
    )
    page.run("document.querySelector('.side.right .token:nth-child(6)').dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))")
    page.run("document.querySelector('.side.right .token:nth-child(6)').dispatchEvent(new MouseEvent('mousemove', {bubbles: true}))")
    assert page.text("#tip") == '"4"\nweight 0.4\nlog-probability -0.25'
    assert page.run("return [...document.querySelectorAll('.wrong-step')].map(t => t.textContent)") == [" say"], "and marked where known"
    assert page.count("#question .katex") == 1, "the question is typeset"
    page.press("t")
    page.wait("return document.querySelectorAll('.side .katex').length > 0")
    assert page.count(".side.right .katex") == 2 and page.count(".side.right .fbox") == 1, "x^2, and a box outside of any formula"
    assert page.count(".side .token") == 0
    assert page.run("return document.fonts.check('16px KaTeX_Main')"), "KaTeX's fonts are in the file"
    assert page.complaints() == []


def test_what_a_model_writes_does_nothing(page, small):
    page.open(small, "#trajectories")
    page.fill("step", "2")
    page.run("document.querySelector('#list .tabulator-row').click()")
    page.wait("return document.querySelectorAll('.side').length === 2")
    made = "return document.querySelectorAll('#detail :is(script, img, iframe, object, b b, [onerror], a[href])').length"
    assert page.run("return document.querySelector('.side.right .token').textContent") == HOSTILE and page.run(made) == 0
    page.press("t")
    page.wait("return document.querySelectorAll('.side .katex').length > 0")
    assert page.text(".side.right .response").count("window.hit = 1") == 2, "it is there, as text"
    assert page.run("return document.querySelector('.side.wrong .response').textContent") == DEEP, (
        "what cannot be typeset is shown as it is"
    )
    assert page.run(made) == 0 and page.count("img") == 0
    page.fill("search", "</script>")
    page.wait("return document.getElementById('found').innerText.startsWith('2 of')")
    assert page.run("return window.hit ?? null") is None
    assert len(page.requests()) == 1 and page.complaints() == []


def measure(page, file: Path, trajectories: str, capsys) -> None:
    """Loads, filters and searches; prints the seconds."""
    loaded = page.open(file, "#trajectories") + page.wait(
        f"return document.getElementById('found').innerText === '{trajectories} of {trajectories}'", 60
    )
    page.fill("verdict", "wrong")
    filtered = page.wait(f"return !document.getElementById('found').innerText.startsWith('{trajectories}')", 30)
    page.fill("verdict", "")
    page.fill("search", "needle")
    searched = page.wait("return document.getElementById('found').innerText.startsWith('1 of')", 60)
    page.press("j")
    shown = page.wait("return document.querySelectorAll('.side').length === 2")
    with capsys.disabled():
        seconds = f"load {loaded:.2f} s, filter {filtered:.2f} s, search {searched:.2f} s, show {shown:.2f} s"
        print(f"\n{file.stat().st_size / 1e6:.1f} MB: {seconds}")
    assert loaded < MANY_LOAD_S and filtered < MANY_FILTER_S and searched < MANY_SEARCH_S and shown < MANY_FILTER_S
    assert page.complaints() == []


def test_ten_thousand_trajectories(page, tmp_path, capsys):
    synthetic.write_many(tmp_path, steps=10, questions=125, samples=8, tokens=60)
    assert report.main([str(tmp_path)]) == 0
    measure(page, tmp_path / "report.html", "10,000", capsys)


@pytest.mark.slow
def test_ten_thousand_trajectories_of_two_thousand_tokens(page, tmp_path, capsys):
    synthetic.write_many(tmp_path, steps=10, questions=125, samples=8, tokens=2000)
    assert report.main([str(tmp_path)]) == 0
    measure(page, tmp_path / "report.html", "10,000", capsys)
