"""Parameters of the loader: files or a repository, split, slice and filters of a data set."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from olivebuild.core.errors import InvalidValue
from olivebuild.data.slices import Slice
from olivebuild.recipe.importers.olive.draft import DraftTarget
from olivebuild.recipe.importers.olive.options import Option
from olivebuild.recipe.importers.olive.resources import REMOTE, Source, resource, source_of
from olivebuild.recipe.importers.olive.rows.params import Params
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Placeholder

BUILDERS = ("json", "csv", "parquet")
"""Values of data_name that are formats of files, and that can be read here."""
OTHER_BUILDERS = ("text", "arrow", "imagefolder", "audiofolder", "webdataset", "xml", "pandas")
SPLIT = re.compile(r"(?P<name>\w+(?:\.\w+)*)(?:\[(?P<slice>[^\]]*)\])?")
NO_EFFECT = {
    "token": "tokens come from the environment or a login",
    "use_auth_token": "tokens come from the environment or a login",
    "trust_remote_code": "an import grants no trust: data sets that are code are not read",
    "cache_dir": "sources are fetched to the cache",
    "streaming": "rows are read as a stream where that helps",
    "num_proc": "it changes no row",
    "keep_in_memory": "it changes no row",
    "batch_size": "it is the loader's, and no training reads it",
    "label_cols": "the text of a row is trained on",
    "label_col": "the text of a row is trained on",
    "input_cols": "the template says which columns are read",
}
KNOWN = (
    "data_name",
    "subset",
    "name",
    "split",
    "data_dir",
    "data_files",
    "col_filters",
    "revision",
    *NO_EFFECT,
)


class Loader:
    """Writes `source` and what chooses its rows into a data set's target."""

    def __init__(self, workflow: Workflow, params: Params, target: DraftTarget) -> None:
        self.workflow = workflow
        self.params = params
        self.target = target
        self.field = f"{target.name}.source"

    def write(self) -> None:
        kind = self.params.type()
        for path in kind.paths:
            self.workflow.ledger.mapped(path, self.field)
        custom = kind.text not in (None, "huggingface_dataset") and not kind.open
        if custom:
            self._of_function(kind)
        else:
            self._of_library()
        for key, why in NO_EFFECT.items():
            self.params.no_effect(key, why)
        if not custom:
            self.params.unknown(KNOWN)

    def _of_function(self, kind: Option) -> None:
        """Leave the source open: a function of a script would load the rows."""
        for path in kind.paths:
            self.workflow.ledger.refused(
                path,
                f"{kind.text} is a function of a script, which is not run",
                "save its rows as a json or parquet file, and write that as `source`",
                fatal=False,
            )
        what = [f"rows of {kind.text}"]
        for section in self.params.sections:
            for key, value in section.value.items():
                if key in ("params", "type", "name", "component_kwargs") or isinstance(value, dict):
                    continue
                if section is self.params.sections[-1] and key not in (*KNOWN, "language"):
                    continue
                if key in NO_EFFECT:
                    continue
                what.append(f"{key} {value}")
                section.mapped(key, self.field, "in the placeholder's text")
        for section in self.params.sections[:-1]:
            section.ledger.no_effect(section.path, "an argument of a function that is not run")
        self.target.set("source", Placeholder(", ".join(what)), *kind.paths)

    def _of_library(self) -> None:
        """Write what `datasets.load_dataset` would be called with."""
        name = self.params.get("data_name", str)
        for path in name.paths:
            self.workflow.ledger.mapped(path, self.field)
        files = self.params.holder("data_files")
        if name.text is not None and not name.text.strip():
            self._refuse(name, "data_name is empty")
        elif name.text in OTHER_BUILDERS:
            self._refuse(name, f"data of the format {name.text} is not read here")
        elif name.text in BUILDERS or (files is not None and name.text is None):
            self._files(files, name)
        elif name.open:
            self._open(name, files)
        elif name.text is not None:
            self._repository(name, files)
        else:
            self.target.set("source", Placeholder("data_name"), note="the file names no data")
        self._filters()

    def _refuse(self, option: Option, fact: str) -> None:
        self.target.set("source", Placeholder(f"rows of {option.text}"), *option.paths)
        for path in option.paths:
            self.workflow.ledger.refused(
                path, fact, "save the rows as json, jsonl, csv or parquet, and name that file"
            )

    def _open(self, name: Option, files: Section | None) -> None:
        """Write a placeholder: which kind of data it is, is left to the user of the file."""
        assert isinstance(name.value, Placeholder)
        value: object = name.value
        paths = [*name.paths]
        if files is not None:
            below = files.value["data_files"]
            files.mapped("data_files", self.field)
            paths.append(files.at("data_files"))
            value = below if isinstance(below, Placeholder) else value
        self.target.set("source", value, *paths)
        self._split(of_files=True)

    def _files(self, files: Section | None, name: Option) -> None:
        """Write data files."""
        if files is None:
            folder = self.params.get("data_dir", str)
            self.target.set("source", Placeholder("data_files"), *name.paths)
            for path in (*folder.paths, *name.paths):
                self.workflow.ledger.refused(
                    path,
                    f"the format {name.text} without data_files",
                    "name the files in data_files",
                    fatal=False,
                )
            return
        value = files.value["data_files"]
        if isinstance(value, dict) and "type" not in value:
            self._files_by_split(files, value)
            return
        sources = self._sources(files, "data_files")
        self.target.set("source", _one_or_all(sources), files.at("data_files"))
        self._split(of_files=True)

    def _sources(self, section: Section, key: str) -> list[Source]:
        """Return the sources of a file, a list of files, or a resource; claim them."""
        value = section.value[key]
        if not isinstance(value, list):
            if isinstance(value, str) and value.strip():
                section.mapped(key, self.field)
                return [self._placed(value)]
            source = resource(self.workflow, section, key, self.field)
            return [source if source is not None else Placeholder("data_files")]
        texts = section.texts(key)
        empty = [path for path, item in section.items(key) if not str(item).strip()]
        for path in empty if value else [section.at(key)]:
            section.ledger.refused(path, f"{key} names no file", "name the files of the rows")
        section.mapped(key, self.field)
        if empty or not value:
            return [Placeholder(key)]
        return [self._placed(t) for t in texts] if isinstance(texts, list) else []

    def _files_by_split(self, section: Section, value: dict[str, object]) -> None:
        """Write the files of the split that is read; those of others are without effect."""
        table = section.section("data_files")
        assert table is not None
        name = self._split(of_files=False)
        chosen = name if name in value else None
        if chosen is None:
            section.refused(
                "data_files",
                f"data_files has no split {name!r}",
                f"its splits are {', '.join(value)}",
            )
            self.target.set("source", Placeholder("data_files"), section.at("data_files"))
            return
        for other in value:
            if other != chosen:
                table.no_effect(other, f"the split {chosen} is read")
        self.target.set("source", _one_or_all(self._sources(table, chosen)), table.at(chosen))
        self.target.drop("split")

    def _placed(self, text: str) -> Source:
        """Return a data file's path below data_dir and, up to 0.6.2, data_root."""
        folder = self.params.get("data_dir", str)
        if text.startswith((*REMOTE, "hf://")):
            for path in folder.paths:
                self.workflow.ledger.no_effect(path, "the file's address is whole")
            return source_of(self.workflow, text)
        parts = [folder.text] if folder.text else []
        for path in folder.paths:
            self.workflow.ledger.mapped(path, self.field)
        root = self.workflow.root.get("data_root", str)
        if isinstance(root, str) and not self.workflow.generation.since(0, 7):
            parts.insert(0, root)
            self.workflow.root.mapped("data_root", self.field)
        if not parts:
            return self.workflow.relative(text)
        whole = _below([*parts, text])
        return whole if whole.startswith(REMOTE) else self.workflow.relative(whole)

    def _repository(self, name: Option, files: Section | None) -> None:
        """Write a repository of the hub, or a folder."""
        assert name.text is not None
        source = source_of(self.workflow, name.text)
        revision = self.params.get("revision", str)
        if revision.text and source.startswith("hf:"):
            source = f"{source}@{revision.text}"
        for path in revision.paths:
            self.workflow.ledger.mapped(path, self.field)
        self.target.set("source", source, *name.paths)
        if files is not None:
            files.refused(
                "data_files",
                "single files of a repository are not chosen here",
                "download them, and name them with data_name json, csv or parquet",
            )
        for key in ("subset", "name"):
            option = self.params.get(key, str)
            for path in option.paths:
                self.target.set("subset", option.value, path)
                self.workflow.ledger.mapped(path, f"{self.target.name}.subset")
        folder = self.params.get("data_dir", str)
        for path in folder.paths:
            self.target.set("subset", folder.value, path)
            self.workflow.ledger.mapped(path, f"{self.target.name}.subset")
        self._split(of_files=False)

    def _split(self, *, of_files: bool) -> str:
        """Write `split` and `slice`, and return the split's name. A file alone has only `train`."""
        option = self.params.get("split", str)
        generation = self.workflow.generation.name
        if option.open:
            self.target.set("split", option.value, *option.paths, note="leave it out for a file")
            for path in option.paths:
                self.workflow.ledger.mapped(path, f"{self.target.name}.split")
            return "train"
        if option.text is None:
            if of_files:
                self.target.comment(
                    f"Without `split` Olive {generation} reads the split validation, which a "
                    "file does not have, and fails. All rows are read here."
                )
            else:
                self.target.set("split", "validation", note=f"Olive {generation}'s default")
            return "validation"
        match = SPLIT.fullmatch(option.text.strip())
        if not match or "+" in option.text:
            self._refuse_split(
                option, f"the split {option.text!r} is not one split or a slice of it"
            )
            return "train"
        name, cut = match["name"], match["slice"]
        self._name_split(option, name, of_files=of_files)
        if cut is not None:
            self._slice(option, cut)
        return str(name)

    def _name_split(self, option: Option, name: str, *, of_files: bool) -> None:
        field = f"{self.target.name}.{'source' if of_files else 'split'}"
        if of_files and name not in ("train", "all"):
            self._refuse_split(option, f"a file has only the split train, not {name}")
        if not of_files and name != "all":
            self.target.set("split", name, *option.paths)
        for path in option.paths:
            self.workflow.ledger.mapped(path, field)

    def _slice(self, option: Option, cut: str) -> None:
        text = cut.replace("_", "").replace(" ", "")
        try:
            Slice.parse(text)
        except InvalidValue as e:
            self._refuse_split(option, e.problem.fact)
            return
        self.target.set("slice", text, *option.paths)
        for path in option.paths:
            self.workflow.ledger.mapped(path, f"{self.target.name}.slice")

    def _refuse_split(self, option: Option, fact: str) -> None:
        for path in option.paths:
            self.workflow.ledger.refused(path, fact, 'write for example "train[:70%]"')

    def _filters(self) -> None:
        section = self.params.holder("col_filters")
        if section is None:
            return
        if not self.workflow.generation.since(0, 7):
            section.meant_else(
                "col_filters", "releases before 0.7 hand it to the loader, which fails"
            )
            return
        table = section.section("col_filters")
        if table is None:
            return
        values = {
            key: value
            for key, value in table.value.items()
            if isinstance(value, str | int | float | bool | Placeholder)
        }
        for key in table.value:
            if key in values:
                table.mapped(key, f"{self.target.name}.where")
            else:
                table.refused(key, "a filter compares with one value here", "write one value")
        self.target.set("where", values, section.at("col_filters"))


def _below(parts: list[str]) -> str:
    """Return a path of parts, of which an absolute one and a URL begin anew."""
    whole = parts[0]
    for part in parts[1:]:
        if part.startswith(REMOTE):
            whole = part
        elif whole.startswith(REMOTE) and not part.startswith("/"):
            whole = f"{whole.rstrip('/')}/{PurePosixPath(part).as_posix()}"
        else:
            whole = PurePosixPath(whole, part).as_posix()
    return whole


def _one_or_all(sources: list[Source]) -> object:
    return sources[0] if len(sources) == 1 else list(sources)
