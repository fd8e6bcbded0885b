"""Builds the documentation site: python docs/make_site.py [FOLDER]; it comes to FOLDER/site (default: build/docs/site).

Pages are the files of docs/, its notebook and the Markdown of `ELSEWHERE`, README as the first of them, so that nothing
stands twice in the checkout. Links are led to where their target is on the site. A link, anchor or picture that is not
there ends the build.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from nnunet_ssl.commands import find_command
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
# Files that lie elsewhere in the checkout -> their page.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/gpu/README.md": "gpu_kit.md",
}
NOTEBOOK, NOTEBOOK_PAGE = "docs/by_hand.ipynb", "by_hand.md"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def write_pages(folder: Path) -> None:
    """All pages and pictures of the site, into a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.py", "*.toml", "*.ipynb", "__pycache__"))
    pages = {page.relative_to(folder).as_posix(): page for page in folder.rglob("*.md")}
    for name, page in pages.items():
        page.write_text(with_links(page.read_text(encoding="utf-8"), f"docs/{name}", name), encoding="utf-8")
    texts = {page: ((ROOT / file).read_text(encoding="utf-8"), file) for file, page in ELSEWHERE.items()}
    texts[NOTEBOOK_PAGE] = (notebook_text(ROOT / NOTEBOOK), NOTEBOOK)
    for page, (text, source) in texts.items():
        (folder / page).write_text(with_links(text, source, page), encoding="utf-8")


def with_links(text: str, source: str, page: str) -> str:
    """Text of a file of the checkout with its relative links as they must be on its page."""

    def led(match: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(source).parent / match[1])
        return os.path.relpath(place(target, match[2] or "", source), PurePosixPath(page).parent)

    return LINK.sub(led, text)


def place(target: str, anchor: str, source: str) -> str:
    """Where a file of the checkout is on the site, with the anchor.

    Raises:
        InputError: it is not there.
    """
    if target in ELSEWHERE:
        return ELSEWHERE[target] + anchor
    if target == NOTEBOOK:
        return NOTEBOOK_PAGE
    if target.startswith("docs/") and (ROOT / target).is_file():
        return target.removeprefix("docs/") + anchor
    raise InputError(f"{source} links to {target}{anchor}, which is not on the site: see {Path(__file__).name}.")


def notebook_text(file: Path) -> str:
    """Its cells as Markdown, without outputs."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    parts = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in parts) + "\n"


class _Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]


def dead_links(site: Path) -> list[str]:
    """Links of the built pages to files and anchors that are not there, whoever made them; not those to elsewhere."""
    pages = {file: _Page(file) for file in site.rglob("*.html") if file.name != "404.html"}
    dead = []
    for file, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = Path(os.path.normpath(file.parent / unquote(parts.path))) if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else None
            if not target.is_file() or (known is not None and parts.fragment and unquote(parts.fragment) not in known):
                dead.append(f"{file.relative_to(site)}: {link}")
    return sorted(dead)


def build(folder: Path) -> Path:
    """Lays out the pages in `folder` and builds them; returns the site's folder.

    Raises:
        InputError: a link leads nowhere, or the build fails for another reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_pages(folder / "pages")
    shutil.copy(ROOT / "docs" / "site.toml", folder / "zensical.toml")
    command = [find_command("zensical"), "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if built.returncode:
        raise InputError(f"The site was not built:\n{built.stdout.strip()}")
    if dead := dead_links(folder / "site"):
        raise InputError(f"Links that lead nowhere:\n  {listed(dead)}")
    return folder / "site"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"
    try:
        print(build(folder) / "index.html")
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
