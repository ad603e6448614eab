"""One HTML file out of the template, the libraries and the data: it loads nothing, and runs no script but those whose hashes it states."""

import base64
import dataclasses
import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from megatron_oreal.report.run import Run
from megatron_oreal.report.trajectories import Packed, packed_json

WEB = Path(__file__).parent / "web"
STYLES = ("uplot/uPlot.min.css", "tabulator-tables/css/tabulator_simple.min.css", "katex/katex.min.css")
SCRIPTS = ("uplot/uPlot.iife.min.js", "tabulator-tables/js/tabulator.min.js", "katex/katex.min.js", "katex/contrib/auto-render.min.js")
OWN_SCRIPTS = ("data.js", "tables.js", "curves.js", "detail.js", "browser.js", "app.js")
_FONT = re.compile(r'url\((fonts/[\w-]+\.woff2)\) format\("woff2"\)(?:,url\([^)]*\) format\("\w+"\))*')


def render(run: Run, packed: Packed, vendor: Path) -> str:
    """The page. `vendor`: see vendor.vendored."""
    styles = [_style(vendor / name) for name in STYLES] + [(WEB / "style.css").read_text()]
    scripts = [_script(vendor / name) for name in SCRIPTS] + [_script(WEB / name) for name in OWN_SCRIPTS]
    facts = {
        "name": run.folder.resolve().name,
        "steps": run.curves.steps,
        "metrics": run.curves.values,
        "summary": run.summary,
        "ablation": dataclasses.asdict(run.ablation) if run.ablation else None,
        "recorded": packed.recorded,
        "index": dataclasses.asdict(packed.index),
    }
    data = {"facts": packed_json(facts), **{f"block-{number}": block for number, block in enumerate(packed.blocks)}}
    return Template((WEB / "page.html").read_text()).substitute(
        title=html.escape(run.folder.resolve().name),
        policy=_policy(scripts),
        styles="\n".join(f"<style>{text}</style>" for text in styles),
        data="\n".join(f'<script type="text/plain" id="{name}">{text}</script>' for name, text in data.items()),
        scripts="\n".join(f"<script>{text}</script>" for text in scripts),
        licences=html.escape("\n\n".join(f"{path.parent.name}\n\n{path.read_text()}" for path in sorted(vendor.glob("*/LICENSE")))),
    )


def _policy(scripts: Sequence[str]) -> str:
    """Content-Security-Policy: nothing from anywhere, these scripts alone; style attributes are KaTeX's and Tabulator's."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    images = "font-src data:; img-src data:"
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; {images}; base-uri 'none'; form-action 'none'"


def _script(path: Path) -> str:
    """A script as it may stand inline: what would end its element or begin a comment is written so that JavaScript reads the same."""
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    text = re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.MULTILINE)
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _style(path: Path) -> str:
    """A style sheet with its fonts inside, the woff2 ones alone."""

    def inlined(match: re.Match) -> str:
        font = base64.b64encode((path.parent / match[1]).read_bytes()).decode()
        return f'url(data:font/woff2;base64,{font}) format("woff2")'

    return _FONT.sub(inlined, path.read_text(encoding="utf-8"))
