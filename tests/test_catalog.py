"""The search path, names, broken files, and models that have no card."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deploytool.catalog import Catalog, catalog_files
from deploytool.errors import BadInput, InvalidFile, NotAvailable, UnknownName

CARD = """\
name: {name}
title: {title}
kind: embedding
folder: /models/x
dimensions: 8
licence: mit
engines: {{sentence-transformers: {{verdict: ok}}}}
"""


def write_card(root: Path, name: str, title: str = "mine") -> Path:
    path = root / "models" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CARD.format(name=name, title=title))
    return path


def write_profile(root: Path, name: str, text: str) -> Path:
    path = root / "hardware" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_first_folder_that_has_a_name_wins(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, first, second, here = (tmp_path / name for name in ("flag", "first", "second", "here"))
    for root in (flag, first, second, here / "profiles"):
        root.mkdir(parents=True)
    user = home / "config" / "profiles"
    monkeypatch.chdir(here)
    monkeypatch.setenv("DEPLOYTOOL_PROFILES", f"{first}{os.pathsep}{second}")
    assert Catalog(flag).model("qwen3-4b").title == "Qwen3-Embedding-4B"
    for root, title in (
        (user, "user"), (here / "profiles", "here"), (second, "second"), (first, "first"), (flag, "flag"),
    ):  # fmt: skip
        write_card(root, "qwen3-4b", title)
        assert Catalog(flag).model("qwen3-4b").title == title
    assert len(Catalog(flag).files("models")) == 18


def test_a_profiles_dir_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        Catalog(tmp_path / "none")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        Catalog().hardware("A10-G")
    assert "did you mean a10g" in str(caught.value.hint)
    with pytest.raises(UnknownName) as caught:
        Catalog().model("qwen3_4B")
    assert "did you mean qwen3-4b" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["../hardware/a10g", "a10g.yaml", ""])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(UnknownName):
        Catalog().hardware(name)


def test_a_broken_file_stops_only_its_own_name(tmp_path: Path) -> None:
    path = write_profile(tmp_path, "mine", "name: mine\nkind: [\n")
    catalog = Catalog(tmp_path)
    assert catalog.hardware("a10g").memory_mib == 23028
    assert "mine" not in [profile.name for profile in catalog.hardware_profiles()]
    with pytest.raises(InvalidFile, match=str(path)):
        catalog.hardware("mine")
    broken = [entry for entry in catalog.hardware_entries() if entry.document is None]
    assert [(entry.name, entry.path) for entry in broken] == [("mine", path)]
    assert broken[0].problems[0].line == 3


def test_a_file_is_named_for_what_is_in_it(tmp_path: Path) -> None:
    path = write_card(tmp_path, "right")
    path.rename(path.with_name("wrong.yaml"))
    with pytest.raises(InvalidFile) as caught:
        Catalog(tmp_path).model("wrong")
    assert str(caught.value.problems[0]).endswith(
        "wrong.yaml:1: name: expected 'wrong', the file's own name, got 'right'"
    )


def test_an_aliass_members_exist(tmp_path: Path) -> None:
    alias = "name: {0}\ntitle: T\nkind: alias\nmembers: [a10g, rtx4091, mine]\nsources: [s]\n"
    write_profile(tmp_path, "mine", alias.format("mine"))
    with pytest.raises(InvalidFile) as caught:
        Catalog(tmp_path).hardware("mine")
    assert [(problem.line, problem.field, problem.message) for problem in caught.value.problems] == [
        (4, "members[1]", "no profile is named 'rtx4091'; did you mean rtx4090 or rtx5090 or rtx4080?"),
        (4, "members[2]", "an alias cannot name itself"),
    ]


def test_validate_reads_files_folders_and_those_that_are_hidden(tmp_path: Path) -> None:
    path = write_card(tmp_path, "qwen3-4b")
    assert catalog_files("models", None, [path]) == [path]
    assert catalog_files("models", None, [tmp_path]) == [path]
    assert catalog_files("models", None, [tmp_path / "models"]) == [path]
    everything = catalog_files("models", tmp_path, [])
    assert [file.name for file in everything].count("qwen3-4b.yaml") == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match="holds no"):
        catalog_files("models", None, [empty])


def test_a_folder_without_a_card_is_read(minilm_folder: Path) -> None:
    card = Catalog().model(str(minilm_folder))
    assert (card.dimensions, card.max_tokens, card.pooling, card.normalize) == (384, 256, "mean", True)
    assert card.parameters == 22_713_216
    assert card.origin == f"folder {minilm_folder}"


def test_a_cards_name_wins_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen3-4b").mkdir()
    (tmp_path / "qwen3-4b" / "config.json").write_text("{")
    assert Catalog().model("qwen3-4b").hub_id == "Qwen/Qwen3-Embedding-4B"
    with pytest.raises(BadInput, match="line 1"):
        Catalog().model("./qwen3-4b")


def cached(cache: Path, hub_id: str, config: Any, *, commit: str = "a" * 40, branch: str = "main") -> Path:
    """A model in the layout of Hugging Face's cache."""
    model = cache / f"models--{hub_id.replace('/', '--')}"
    folder = model / "snapshots" / commit
    folder.mkdir(parents=True)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / branch).write_text(commit)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_a_cached_hub_id_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    cached(tmp_path / below, "some/model", BERT)
    card = Catalog().model("some/model")
    assert (card.name, card.hub_id, card.revision) == ("model", "some/model", "a" * 40)
    assert card.origin == "hub some/model"
    assert card.dimensions == 64


def test_the_hub_id_of_a_card_is_that_card() -> None:
    assert Catalog().model("qwen/qwen3-embedding-4b").name == "qwen3-4b"


def test_a_hub_id_that_is_nowhere_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotAvailable) as caught:
        Catalog().model("Qwen/Qwen3-Embedding-5B")
    assert str(tmp_path) in caught.value.message
    assert "hf download Qwen/Qwen3-Embedding-5B" in str(caught.value.hint)
    assert "did you mean Qwen/Qwen3-Embedding-" in str(caught.value.hint)


def test_a_path_that_is_nowhere_is_said_plainly() -> None:
    with pytest.raises(BadInput, match=r"there is no folder \./nowhere"):
        Catalog().model("./nowhere")
