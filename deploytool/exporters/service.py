"""What an exporter is given: one launch with its image, its model, its hardware, and how many of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from deploytool.contained import FILES, INSIDE, PYTHON, SECRET_TARGET, Bind, argv
from deploytool.hardware import HardwareProfile
from deploytool.launch import LaunchSpec
from deploytool.memory import MemoryEstimate
from deploytool.models import ModelCard
from deploytool.schema import Document

FETCH = "fetch_model.py"
ROOM_MIB = 2048  # Python, libraries and files that are read, beside the estimate
CARD_ROOM_MIB = 4096  # the same with CUDA's libraries
KEPT_TWICE = 2.5  # a claim holds the model, its parts while they are fetched, and the next revision
WIDTH = 110


class Service(Document):
    """One deployment to be exported. `cards` is of one replica; `model` None: its files are to be fetched."""

    name: str
    launch: LaunchSpec
    card: ModelCard
    hardware: HardwareProfile
    memory: MemoryEstimate
    cards: int
    replicas: int = 1
    model: tuple[Bind, str] | None = None
    files: dict[str, str] = Field(default_factory=dict, description="name -> text of what argv names")
    slo: str | None = None

    @property
    def on_cards(self) -> bool:
        return self.hardware.kind != "cpu"

    @property
    def folder(self) -> str:
        """Where the server finds the model's files."""
        if self.model is not None:
            return self.model[1]
        return f"{INSIDE}/{self.launch.model_path.rstrip('/').rpartition('/')[2]}"

    @property
    def command(self) -> list[str]:
        """The engine's command line inside; a folder has no revision."""
        words = list(argv(self.launch, self.folder))
        if "--revision" in words:
            at = words.index("--revision")
            del words[at : at + 2]
        return words

    @property
    def fetching(self) -> list[str]:
        """The command that brings the model's files to `folder`."""
        digests = [f"{name}={digest}" for name, digest in self.card.sha256.items()]
        words = [PYTHON, f"{FILES}/{FETCH}", self.card.hub_id or "", self.card.revision or "", self.folder]
        return [*words, *digests]

    @property
    def scripts(self) -> dict[str, str]:
        """The files that the containers are given, by name: the engine's own, and the one that fetches."""
        fetch = Path(__file__).with_name(FETCH).read_text(encoding="utf-8")
        return {**self.files, **({} if self.model is not None else {FETCH: fetch})}

    @property
    def shm_mib(self) -> int | None:
        return self.launch.shm_mib if self.on_cards else None

    @property
    def host_mib(self) -> tuple[int, int]:
        """Memory of the machine to reserve, and the most it may take, in MiB.

        On processors the estimate, and twice that to bound a fault; with a card the weights pass through the
        machine's memory once, and shared memory counts as the container's.
        """
        if not self.on_cards:
            upper = self.memory.upper_mib
            return math.ceil(upper + ROOM_MIB / 2), math.ceil(2 * upper + ROOM_MIB)
        wanted = math.ceil(self.memory.weights_mib * self.cards + CARD_ROOM_MIB)
        return wanted, 2 * wanted + (self.shm_mib or 0)

    @property
    def disk_gib(self) -> int:
        """Room for the model's files."""
        return math.ceil(max(1.0, KEPT_TWICE * self.memory.weights_mib * self.cards / 1024))

    @property
    def key_line(self) -> str | None:
        """The shell command that writes the file with the API key, without the key; None: no key."""
        secret = self.launch.secret
        if secret is None:
            return None
        form = secret.template if secret.kind == "file" else "{key}"
        filled = form.replace("{key}", '"%s"' if secret.quoting == "json" else "%s")
        return "printf '" + filled.replace("\n", "\\n") + "'"

    @property
    def key_code(self) -> str:
        """A Python expression for the key as it stands in its file."""
        read = f"open({SECRET_TARGET!r}).read()"
        secret = self.launch.secret
        if secret is None or secret.kind == "env":
            return f"{read}.strip()"
        before, _, after = secret.template.partition("{key}")
        inner = f"{read}.removeprefix({before!r}).removesuffix({after!r})"
        return f"__import__('json').loads({inner})" if secret.quoting == "json" else inner


class _Dumper(yaml.SafeDumper):
    """Lists indented below their key, texts of several lines as blocks, nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dump(document: Any) -> str:
    """A document as YAML in its own order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)


def comment(text: str) -> str:
    """Lines as a YAML comment."""
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())
