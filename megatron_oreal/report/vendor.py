"""The web libraries of a report, at the versions and hashes of web/package-lock.json, in vendor/ beside this file.

Building the package fetches them (setup.py), and so does the first report of a checkout that never was built; it needs no node:

    python megatron_oreal/report/vendor.py [--registry https://registry.npmjs.org]

The standard library alone, for it runs before anything is installed. New versions: `npm install --package-lock-only` in web/.
"""

import argparse
import base64
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "web" / "package-lock.json"
VENDOR = HERE / "vendor"
STAMP = "fetched.sha256"
"""Holds the hash of the lock file and of this file, which says what of each library is taken."""
REGISTRY = "https://registry.npmjs.org"
TIMEOUT_S = 60
FILES = {  # library -> what a report takes of it: the start of a path within its package
    "uplot": ("LICENSE", "dist/uPlot.iife.min.js", "dist/uPlot.min.css"),
    "tabulator-tables": ("LICENSE", "dist/js/tabulator.min.js", "dist/css/tabulator_simple.min.css"),
    "katex": ("LICENSE", "dist/katex.min.js", "dist/katex.min.css", "dist/contrib/auto-render.min.js", "dist/fonts/"),
}
SUFFIXES = ("LICENSE", ".js", ".css", ".woff2")


def vendored(registry: str = REGISTRY) -> Path:
    """The folder with one folder a library; fetched first where it is not what the lock file says.

    Raises:
        OSError: a library cannot be fetched; with its name and address.
        ValueError: what came is not what the lock file says.
    """
    lock = LOCK.read_bytes()
    stamp = hashlib.sha256(lock + Path(__file__).read_bytes()).hexdigest()
    if (VENDOR / STAMP).is_file() and (VENDOR / STAMP).read_text() == stamp:
        return VENDOR
    packages = json.loads(lock)["packages"]
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".vendor-") as temporary:
        new = Path(temporary) / "new"
        for name in FILES:
            _unpack(name, _fetch(name, packages[f"node_modules/{name}"], registry), new / name)
        (new / STAMP).write_text(stamp)
        if VENDOR.exists():
            VENDOR.rename(Path(temporary) / "old")
        new.rename(VENDOR)
    return VENDOR


def _fetch(name: str, locked: Mapping[str, str], registry: str) -> bytes:
    """The package as the registry has it, its hash compared."""
    url = f"{registry.rstrip('/')}/{name}/-/{name}-{locked['version']}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            data = response.read()
    except OSError as error:
        raise OSError(f"{name} {locked['version']} of the report cannot be fetched from {url}: {error}") from error
    algorithm, _, expected = locked["integrity"].partition("-")
    if base64.b64encode(hashlib.new(algorithm, data).digest()).decode() != expected:
        raise ValueError(f"{url}: its {algorithm} is not that of {LOCK.name}")
    return data


def _unpack(name: str, package: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member in archive:
            path = member.name.partition("/")[2]
            if member.isfile() and path.startswith(FILES[name]) and path.endswith(SUFFIXES):
                target = folder / path.removeprefix("dist/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as file:
                    shutil.copyfileobj(archive.extractfile(member), file)


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--registry", default=REGISTRY, help="an npm registry (default: %(default)s)")
    try:
        print(vendored(parser.parse_args().registry))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
