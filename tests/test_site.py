"""The documentation site builds, leads nowhere in vain, and says what the code says."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import batchgenerators.dataloading.nondet_multi_threaded_augmenter as augmenter
import nnunetv2.utilities.file_path_utilities as nnunets
import pytest

import nnunet_ssl
from nnunet_ssl.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def make_site():
    """The script docs/make_site.py as a module."""
    spec = importlib.util.spec_from_file_location("make_site", DOCS / "make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_builds_strictly_and_no_link_is_dead(make_site, tmp_path):
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings")
    site = make_site.build(tmp_path)  # raises for a dead link
    api = (site / "api.html").read_text(encoding="utf-8")
    assert [name for name in nnunet_ssl.__all__ if not re.search(rf'id="nnunet_ssl\.[\w.]+\.{name}"', api)] == []
    gains = (site / "which_method.html").read_text(encoding="utf-8")
    assert '<span class="chance">' in gains and 'assets/site.css"' in gains
    assert 'id="a-fraction-of-the-labels"' in (site / "own_data.html").read_text(encoding="utf-8")
    assert (site / "by_hand.html").is_file()


def test_dead_links_anchors_and_pictures_are_named(make_site, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="sub/b.html#here"></a><a href="#top"></a><a href="https://elsewhere.org/x"></a>'
        '<a href="b.html"></a><a href="sub/b.html#gone"></a><a href="#gone"></a><img src="gone.png">'
    )
    (tmp_path / "sub" / "b.html").write_text('<h2 id="here"></h2><a href="../a.html"></a><a href="../c.html"></a>')
    assert make_site.dead_links(tmp_path) == [
        "a.html: #gone", "a.html: b.html", "a.html: gone.png", "a.html: sub/b.html#gone", "sub/b.html: ../c.html",
    ]  # fmt: skip


def test_links_are_led_to_where_their_target_is_on_the_site(make_site):
    def led(link, source, page):
        return make_site.with_links(f"[x]({link})", source, page).removeprefix("[x](").removesuffix(")")

    assert led("docs/findings.md", "README.md", "index.md") == "findings.md"
    assert led("docs/figures/la-mini.png", "README.md", "index.md") == "figures/la-mini.png"
    assert led("../README.md#install", "docs/road.md", "road.md") == "index.md#install"
    assert led("own_data.md#a-fraction-of-the-labels", "docs/road.md", "road.md") == (
        "own_data.md#a-fraction-of-the-labels"
    )
    assert led("../../CONTRIBUTING.md", "docs/methods/BCP.md", "methods/BCP.md") == "../contributing.md"
    assert led("https://github.com/MIC-DKFZ/nnUNet", "README.md", "index.md").startswith("https://github.com")
    assert led("#here", "docs/road.md", "road.md") == "#here"
    with pytest.raises(InputError, match=r"docs/road.md links to pyproject.toml, which is not on the site"):
        led("../pyproject.toml", "docs/road.md", "road.md")
    with pytest.raises(InputError, match=r"README.md links to docs/gone.md, which is not on the site"):
        led("docs/gone.md", "README.md", "index.md")


def test_every_page_is_in_the_navigation(make_site):
    def pages(entry):
        values = entry.values() if isinstance(entry, dict) else entry
        return [p for value in values for p in ([value] if isinstance(value, str) else pages(value))]

    listed = pages(tomllib.loads((DOCS / "site.toml").read_text(encoding="utf-8"))["project"]["nav"])
    made = [*make_site.ELSEWHERE.values(), make_site.NOTEBOOK_PAGE, "methods/README.md"]
    assert sorted(listed) == sorted([*made, *(page.name for page in DOCS.glob("*.md"))])


# ---------------------------------------------------------------------- what the pages quote


def texts(file: Path) -> list[str]:
    """All texts of a Python file, with … for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def quoted() -> list[str]:
    """The messages of the troubleshooting page: the code at the beginning of a table's row."""
    return re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_message_on_the_page_still_exists_in_the_code():
    ours = [*(ROOT / "nnunet_ssl").rglob("*.py")]
    known = [text for file in (*ours, Path(augmenter.__file__), Path(nnunets.__file__)) for text in texts(file)]
    messages = quoted()
    assert len(messages) > 40
    lost = [message for message in messages if not any(says(text, message) for text in known)]
    assert lost == []


def says(text: str, message: str) -> bool:
    """Whether a text of the code holds all words of a message in order; … in the message stands for anything."""
    words = [re.escape(part.strip()) for part in message.split("…") if part.strip(" :")]
    return re.search(".*".join(words), text, re.DOTALL) is not None


def test_a_message_that_is_gone_is_noticed():
    assert says("case …: … is damaged; replace it", "case …: … is damaged")
    assert not says("case …: … is damaged; replace it", "case …: … was damaged")
    assert not says("b then a", "a … b")


@pytest.mark.parametrize(("status", "requeued"), [(143, True), (0, False), (1, False)])
def test_the_slurm_script_requeues_only_what_was_stopped_with_a_checkpoint(tmp_path, status, requeued):
    [script] = re.findall(
        r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", (DOCS / "clusters.md").read_text("utf-8"), re.DOTALL
    )
    log = tmp_path / "log"
    for name, code in (("srun", status), ("scontrol", 0)):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*; $nnUNet_n_proc_DA" >> {log}\nexit {code}\n')
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_CPUS_PER_TASK": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(["bash", "-euc", script], env=environment, check=False)
    lines = log.read_text().splitlines()
    assert ended.returncode == status
    assert lines[0] == "srun nnUNetv2_train 18 3d_fullres 3 -tr nnUNetTrainerBCP --c; 10"
    assert lines[1:] == (["scontrol requeue 77_3; 10"] if requeued else [])
