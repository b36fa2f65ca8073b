"""Finds hardware profiles and model cards by name on the search path; the first folder that has one wins.

A broken file stops nobody else: it raises where it is asked for by name, and `entries` tells `list` and
`validate` about it. Names are file names, so one profile is read without reading the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from deploytool import hub_cache
from deploytool.documents import Fault, Rule, load
from deploytool.errors import BadInput, InvalidFile, NotAvailable, Problem, UnknownName, nearest
from deploytool.gguf_card import ENDING, only_file, read_gguf
from deploytool.hardware import HardwareProfile, hardware_faults
from deploytool.model_folder import read_folder
from deploytool.model_rules import model_faults
from deploytool.models import ModelCard
from deploytool.paths import profile_dirs
from deploytool.schema import Document
from deploytool.word_vectors import is_word_vectors, read_word_vectors

Kind = Literal["hardware", "models"]
T = TypeVar("T", bound=Document)

SUFFIXES = (".yaml", ".yml")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Entry(NamedTuple, Generic[T]):
    """One file of the search path: its document, or None and what is wrong with it."""

    name: str
    path: Path
    document: T | None
    problems: tuple[Problem, ...] = ()


class Catalog:
    """Profiles and cards of one search path. `profiles_dir` is looked at first (`--profiles-dir`).

    `ask_hub`: of a model that is not here the hub may be asked; else nobody is contacted.
    """

    def __init__(self, profiles_dir: Path | None = None, *, ask_hub: bool = False) -> None:
        if profiles_dir is not None and not profiles_dir.expanduser().is_dir():
            raise BadInput(
                f"--profiles-dir {profiles_dir} is not a folder",
                hint="give a folder that holds hardware/*.yaml or models/*.yaml",
            )
        self.profiles_dir = profiles_dir
        self.ask_hub = ask_hub

    def files(self, kind: Kind) -> dict[str, Path]:
        """Name -> the file that wins, in the order of names."""
        found: dict[str, Path] = {}
        for folder in profile_dirs(kind, self.profiles_dir):
            for path in sorted(folder.iterdir()):
                if path.suffix in SUFFIXES and not path.name.startswith("."):
                    found.setdefault(path.stem, path)
        return dict(sorted(found.items()))

    def hardware(self, name: str) -> HardwareProfile:
        """The profile of a name. Raises UnknownName with the nearest, InvalidFile with all problems."""
        files = self.files("hardware")
        if name not in files:
            raise UnknownName("hardware profile", name, files, hint="(`deploytool profiles list` shows all)")
        return self.read_hardware(files[name])

    def hardware_profiles(self) -> list[HardwareProfile]:
        """All profiles that can be read, by name; broken files are left to `entries`."""
        return [entry.document for entry in self.hardware_entries() if entry.document is not None]

    def hardware_entries(self) -> list[Entry[HardwareProfile]]:
        return [_entry(path, self.read_hardware) for path in self.files("hardware").values()]

    def model_cards(self) -> list[ModelCard]:
        """All cards that can be read, by name; broken files are left to `entries`."""
        return [entry.document for entry in self.model_entries() if entry.document is not None]

    def model_entries(self) -> list[Entry[ModelCard]]:
        return [_entry(path, self.read_model) for path in self.files("models").values()]

    def read_hardware(self, path: Path, rules: Sequence[Rule] = ()) -> HardwareProfile:
        """One profile's file, checked against all rules; raises InvalidFile."""

        def members_exist(profile: HardwareProfile) -> Iterable[Fault]:
            if not profile.members:
                return ()
            return _member_faults(profile, {*self.files("hardware"), *_stems(path.parent)})

        return load(path, HardwareProfile, [_named_as(path), hardware_faults, members_exist, *rules])

    def read_model(self, path: Path, rules: Sequence[Rule] = ()) -> ModelCard:
        """One card's file, checked against all rules; raises InvalidFile."""
        return load(path, ModelCard, [_named_as(path), model_faults, *rules])

    def model(self, reference: str) -> ModelCard:
        """The card of a model: by its card's name, by a local folder, or by a hub id ("org/name").

        A folder or a hub id without a card is read from its own files (config.json and those of Sentence
        Transformers; nothing is executed). Of a hub id whose files are not in the local cache the hub is
        asked for these small files and the weights' headers, where that is allowed (`ask_hub`).

        Raises UnknownName, InvalidFile, BadInput for a folder that holds no readable model, NotAvailable for
        a hub id that the hub does not tell about.
        """
        files = self.files("models")
        if reference in files:
            return self.read_model(files[reference])
        folder = Path(reference).expanduser()
        if reference and folder.is_dir():
            gguf = only_file(folder)
            if gguf is not None:
                return read_gguf(gguf.resolve())
            return self._from_folder(folder.resolve())
        if reference.lower().endswith(ENDING) and folder.is_file():
            return read_gguf(folder.resolve())
        if reference and is_word_vectors(folder):
            return read_word_vectors(folder.resolve())
        if HUB_ID.fullmatch(reference) and not reference.startswith("."):
            return self._from_hub(reference)
        if "/" in reference or reference.startswith(("~", ".")):
            raise BadInput(
                f"there is no folder {reference}",
                hint="give a model's name (`deploytool models list`), a folder with its files, or a hub id",
            )
        raise UnknownName(
            "model", reference, files, hint="(or give a folder with a model's files, or a hub id org/name)"
        )

    def _from_folder(self, folder: Path) -> ModelCard:
        return read_folder(folder, name=folder.name, origin=f"folder {folder}")

    def _from_hub(self, hub_id: str) -> ModelCard:
        by_hub_id = {card.hub_id: card for card in self.model_cards() if card.hub_id is not None}
        for known, card in by_hub_id.items():
            if known.lower() == hub_id.lower():
                return card
        name = hub_id.split("/")[1]
        origin = f"hub {hub_id}"
        found = hub_cache.snapshot(hub_id)
        if found is not None:
            return read_folder(found[0], name=name, origin=origin, hub_id=hub_id, revision=found[1])
        from deploytool import hub_metadata  # it speaks HTTP

        told, why, mend = hub_metadata.kept(hub_id), "", ""
        if self.ask_hub:
            try:
                told = hub_metadata.describe(hub_id)
            except NotAvailable as error:
                told, why, mend = None, f"; {error.message}", f"{error.hint}; or "
        if told is None:
            near = nearest(hub_id, by_hub_id)
            guess = f"did you mean {' or '.join(near)}? If not, " if near else ""
            raise NotAvailable(
                f"{hub_id} has no model card here, and its files are not in the cache"
                f" ({hub_cache.hub_cache()}): what it needs is not known{why}",
                hint=f"{guess}{mend}download it (`hf download {hub_id}`), or give its folder,"
                " or write a card (`deploytool models show all-minilm-l6-v2 --yaml` is an example)",
            )
        weights = told.parameters, told.dtype
        return read_folder(
            told.folder, name=name, origin=origin, hub_id=hub_id, revision=told.commit, weights=weights
        )


def catalog_files(kind: Kind, profiles_dir: Path | None, paths: Sequence[Path]) -> list[Path]:
    """The files that `validate` reads: those named (a folder stands for its files), else all on the path.

    Files that another of the same name hides are among them. Raises BadInput for a folder without any.
    """
    found: list[Path] = []
    for path in paths or profile_dirs(kind, profiles_dir):
        if not path.is_dir():
            found.append(path)
            continue
        folder = path / kind if (path / kind).is_dir() else path
        inside = sorted(folder / f"{stem}{suffix}" for stem in _stems(folder) for suffix in SUFFIXES)
        inside = [file for file in inside if file.is_file()]
        if not inside and paths:
            raise BadInput(f"{path} holds no *.yaml", hint=f"give files, or a folder with {kind}/*.yaml")
        found += inside
    return found


def _entry(path: Path, read: Callable[[Path], T]) -> Entry[T]:
    try:
        return Entry(path.stem, path, read(path))
    except InvalidFile as error:
        return Entry(path.stem, path, None, error.problems)


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix in SUFFIXES} if folder.is_dir() else set()


def _named_as(path: Path) -> Rule:
    """The rule that a file is named for what is in it: names are looked up by file."""

    def rule(document: Any) -> Iterable[Fault]:
        if document.name is not None and document.name != path.stem:
            yield Fault(("name",), f"expected {path.stem!r}, the file's own name, got {document.name!r}")

    return rule


def _member_faults(profile: HardwareProfile, known: set[str]) -> Iterable[Fault]:
    for index, member in enumerate(profile.members or ()):
        if member == profile.name:
            yield Fault(("members", index), "an alias cannot name itself")
        elif member not in known:
            near = nearest(member, known)
            guess = f"; did you mean {' or '.join(near)}?" if near else ""
            yield Fault(("members", index), f"no profile is named {member!r}{guess}")
