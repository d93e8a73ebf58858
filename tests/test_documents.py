"""The documents: generated pages are up to date, links lead somewhere, recipes pass the schema, and
console blocks are run or carry the date of the run that they were taken from.
"""

from __future__ import annotations

import datetime
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from olivebuild.recipe import document
from olivebuild.recipe.schema import recipe_schema
from tests.conftest import Place, rows, write_rows

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for page in ROOT.glob(pattern)
    if "node_modules" not in page.parts
)
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```", re.S | re.M
)
EXCERPT = re.compile(r"excerpt (\d{4}-\d\d-\d\d)(: .+)?")
"""An excerpt of a real run, and the day of it."""
RUN = re.compile(r"run (commands|own-data)")
"""A block that a test here runs in a workspace of that name."""
DURATION = re.compile(r"\d+(\.\d+)? (s|min( \d+ s)?)\b")
COMMANDS = """\
default: second
targets:
  first: {kind: command, run: "cp in.txt {outputs.text}", outputs: {text: text.txt}}
  second: {kind: command, run: "cp {inputs.text} {outputs.text}", inputs: {text: first.text},
    outputs: {text: text.txt}}
"""
"""The recipe of the workspace `commands`."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page, and the comment on the line above it."""

    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str, language: str) -> list[Block]:
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start()) + 1,
            language=match["language"],
            mark=match["mark"] or "",
            text=match["text"],
        )
        for match in BLOCK.finditer(text)
        if match["language"] == language
    ]


def in_pages(language: str) -> list[Block]:
    collected = []
    for page in PAGES:
        collected += blocks(page.relative_to(ROOT).as_posix(), page.read_text("utf-8"), language)
    return collected


def why_unchecked(block: Block) -> str | None:
    """Return why nothing vouches for a console block; None if it is run or a dated excerpt."""
    if RUN.fullmatch(block.mark):
        return None
    if excerpt := EXCERPT.fullmatch(block.mark):
        datetime.date.fromisoformat(excerpt[1])
        return None
    return "is neither run (<!-- run NAME -->) nor an excerpt (<!-- excerpt YYYY-MM-DD -->)"


def test_console_blocks_are_run_or_dated() -> None:
    assert [f"{b.place} {why}" for b in in_pages("console") if (why := why_unchecked(b))] == []
    assert len(in_pages("console")) > 2


@pytest.mark.parametrize(
    ("mark", "right"),
    [
        ("", False),
        ("<!-- excerpt -->\n", False),
        ("<!-- excerpt 2026-11-26 -->\n", True),
        ("<!-- excerpt 2026-11-26: a laptop -->\n", True),
        ("<!-- excerpt 26-11-2026 -->\n", False),
        ("<!-- run commands -->\n", True),
        ("<!-- run nothing -->\n", False),
        ("<!-- run commands -->\n\n", False),
    ],
)
def test_a_block_without_a_mark_is_told(mark: str, right: bool) -> None:
    (block,) = blocks("a.md", f"text\n\n{mark}```console\n$ ls\n```\n", "console")
    assert (why_unchecked(block) is None) == right


def test_sessions_are_console_blocks() -> None:
    """A session in a block of another language would escape the tests."""
    pages = [(page, page.read_text("utf-8")) for page in PAGES]
    sessions = [
        block.place
        for page, text in pages
        for language in ("", "sh", "shell", "bash", "text")
        for block in blocks(page.name, text, language)
        if re.search(r"^\$ ", block.text, re.M)
    ]
    sessions += [page.name for page, text in pages if re.search(r"^    \$ ", text, re.M)]
    assert sessions == []


def test_generated_pages_are_up_to_date() -> None:
    generate = runpy.run_path(str(ROOT / "docs/generate.py"))
    assert [file.name for file in generate["stale"]()] == [], "run python docs/generate.py"


def test_links_lead_somewhere() -> None:
    """Links to files and to headings of pages; those to the web are not asked for."""
    anchors = {page: anchors_of(page.read_text("utf-8")) for page in PAGES}
    broken = []
    for page in PAGES:
        text = re.sub(r"```.*?^```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.S | re.M)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors.get(file, ())):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_files_that_pages_name_exist() -> None:
    """Paths from the root of the repository, in prose and tables; moved files leave none behind."""
    missing = []
    for page in PAGES:
        text = re.sub(r"```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
        for path in re.findall(
            r"(?<![\w/.])(?:tests|benchmarks|recipes|docs|olivebuild)/[\w./-]+", text
        ):
            file = ROOT / path.rstrip(".")
            if not file.exists() and page.name != "CHANGELOG.md" and "_build" not in path:
                missing.append(f"{page.relative_to(ROOT)}: {path}")
    assert missing == []


def anchors_of(text: str) -> set[str]:
    """Return the names that headings get as targets of links, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def kinds_of_examples() -> set[str]:
    """Kinds that the packages in examples/ add."""
    projects = [
        tomllib.loads(file.read_text("utf-8"))["project"]
        for file in ROOT.glob("examples/*/pyproject.toml")
    ]
    groups = [project.get("entry-points", {}).get("olivebuild.steps", {}) for project in projects]
    return {kind for group in groups for kind in group}


def test_recipes_in_pages_pass_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(recipe_schema())
    recipes: list[tuple[str, Any]] = [
        (block.place, document.parse(block.text, block.place).value) for block in in_pages("yaml")
    ]
    checked = [(place, recipe) for place, recipe in recipes if "targets" in recipe]
    added = kinds_of_examples()
    for _, recipe in checked:
        # The schema knows the kinds that are built in; tests/api/test_plugins.py builds the others.
        kept = {n: t for n, t in recipe["targets"].items() if t["kind"] not in added}
        recipe["targets"] = kept or {"none": {"kind": "command", "run": "x", "outputs": ["x"]}}
    assert [(place, e.message) for place, r in checked for e in validator.iter_errors(r)] == []
    assert len(checked) > 3


# -- running what pages show


def test_commands_do_what_the_pages_show(place: Place) -> None:
    place.recipe.write_text(COMMANDS)
    (place.folder / "in.txt").write_text("one\n")
    check("commands", place)


@pytest.mark.scenario
def test_own_data_is_built_as_the_pages_show(place: Place, tiny_model: Path) -> None:
    write_rows(
        place.folder / "rows.jsonl",
        [{"text": row["phrase"], "label": row["tone"]} for row in rows()],
    )
    shutil.copytree(tiny_model, place.folder / "model")
    check("own-data", place)


def check(name: str, place: Place) -> None:
    """Run the blocks of that name, each in a copy of the workspace and with a cache of its own.

    A block that two pages show is run once.
    """
    marked = [block for block in in_pages("console") if block.mark == f"run {name}"]
    assert marked
    for number, block in enumerate({block.text: block for block in marked}.values()):
        folder = place.folder.with_name(f"block{number}")
        shutil.copytree(place.folder, folder)
        copy = Place(folder, place.cache.with_name(f"cache{number}"))
        for command, expected in session(block.text):
            output = run(command, copy)
            assert agrees(output, expected), f"{block.place}: $ {command}\n{output}"


def session(text: str) -> list[tuple[str, list[str]]]:
    """Return each command of a block with the lines that it prints."""
    commands: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif line or (commands and commands[-1][1]):
            commands[-1][1].append(line)
    return commands


def run(command: str, place: Place) -> str:
    """Return what a command prints, `olivebuild` being the one that is tested."""
    words = shlex.split(command)
    if words[0] == "olivebuild":
        ended = place.run(*words[1:], err=subprocess.STDOUT)
        assert ended.code == 0, ended.out
        return ended.out
    return subprocess.run(
        ["sh", "-c", command],
        cwd=place.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout


def agrees(output: str, expected: list[str]) -> bool:
    """Say whether output is as a page shows it: durations apart, and `[...]` for any lines."""
    pattern = "".join(
        "(?:.*\n)*?" if line == "[...]" else re.escape(DURATION.sub("TIME", line).rstrip()) + "\n"
        for line in expected
    )
    lines = [DURATION.sub("TIME", line).rstrip() + "\n" for line in output.splitlines()]
    return re.fullmatch(pattern, "".join(lines)) is not None


@pytest.mark.parametrize(
    ("expected", "right"),
    [
        (["done  first  0.1 s", "1 built in 2 min 3 s"], True),
        (["[...]", "1 built in 1 s"], True),
        (["[...]"], True),
        (["[...]", "2 built in 1 s"], False),
        (["1 built in 1 s"], False),
        (["done  first  0.1 s"], False),
    ],
)
def test_output_is_compared_line_by_line(expected: list[str], right: bool) -> None:
    assert agrees("done  first  0.4 s\n1 built in 0.5 s\n", expected) == right
