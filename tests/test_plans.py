"""`prepare` and `plan`: the golden command lines, the offers where something does not fit, and exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.errors import BadInput, DeploytoolError, Incompatible, NotAvailable
from deploytool.paths import packaged
from deploytool.planning import PlanRequest
from deploytool.planning.choices import choose_engine
from deploytool.plans import PlanDoesNotFit, Prepared, any_pooling, order, prepare

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
GOLDEN = Path(__file__).parent / "golden" / "plans"
PROFILES = ("a10g", "t4", "h100", "rtx3060-12gb", "jetson-orin", "cpu")
HOST_MIB = 16_000


def text_of(profile: str) -> str:
    """Every model's command line and memory on one profile, or why there is none."""
    catalog = Catalog()
    hardware = catalog.hardware(profile)
    blocks = []
    for card in catalog.model_cards():
        try:
            name, _ = choose_engine(card, hardware, ENGINES, order(hardware))
            free_mib = HOST_MIB if hardware.kind == "cpu" else None
            request = PlanRequest(free_mib=free_mib, flags=any_pooling(card))
            plan = ENGINES[name].plan(card, hardware, request)
        except DeploytoolError as error:
            blocks.append(f"# {card.name}: exit {error.exit_code}: {error.message}")
            continue
        memory = plan.memory
        figures = f"{memory.lower_mib:.0f} / {memory.expected_mib:.0f} / {memory.upper_mib:.0f} MiB"
        command = plan.launch.command_lines().replace(shlex.quote(sys.executable), "python")
        command = command.replace(f"{packaged('profiles')}{os.sep}", "")
        blocks.append(f"# {card.name}: {plan.engine}, {memory.verdict}, {figures}\n{command}")
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("profile", PROFILES)
def test_command_lines_are_as_reviewed(profile: str) -> None:
    path = GOLDEN / f"{profile}.txt"
    text = text_of(profile)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"if this is meant: UPDATE_GOLDEN=1 pytest {__file__}"


def ready(model: str, profile: str, **options: Any) -> Prepared:
    asked: dict[str, Any] = {"flags": {}, "environ": {}, "verify": False, **options}
    return prepare(model, profile, catalog=Catalog(), **asked)


def test_the_packaged_model_is_found_and_its_digest_checked(minilm_folder: Path) -> None:
    prepared = ready("all-minilm-l6-v2", "cpu", verify=True)
    assert prepared.files is not None and prepared.files.path == str(minilm_folder)
    assert prepared.files.verified == "sha256"
    assert prepared.plan.launch.model_path == str(minilm_folder)
    assert prepared.plan.memory.available_from == "free memory of this machine"


def test_a_folder_with_the_wrong_pooling_is_refused(minilm_folder: Path) -> None:
    with pytest.raises(Incompatible, match="wrong vectors") as caught:
        ready(str(minilm_folder), "a10g", engine="sglang")
    assert caught.value.exit_code == 4
    assert ready(str(minilm_folder), "a10g").plan.engine == "sentence-transformers"


def test_files_that_are_not_here_are_no_obstacle_to_a_plan() -> None:
    prepared = ready("qwen3-4b", "a10g")
    assert prepared.plan.launch.model_path == "Qwen/Qwen3-Embedding-4B"
    assert any("not in the cache" in warning for warning in prepared.plan.warnings)


def test_a_changed_file_is_found_before_it_is_served(minilm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(minilm_folder, broken)
    weights = broken / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    card = (Path(__file__).parent.parent / "profiles/models/all-minilm-l6-v2.yaml").read_text(
        encoding="utf-8"
    )
    card = re.sub(r"^packaged:.*$", f"folder: {broken}", card, flags=re.MULTILINE)
    (folder / "mine.yaml").write_text(
        card.replace("name: all-minilm-l6-v2", "name: mine", 1), encoding="utf-8"
    )
    catalog = Catalog(tmp_path)
    with pytest.raises(NotAvailable, match="is not the file that the card"):
        prepare("mine", "cpu", flags={}, environ={}, catalog=catalog)
    assert prepare("mine", "cpu", flags={}, environ={}, catalog=catalog, verify=False).files is not None


def test_variables_stand_below_flags() -> None:
    environ = {"DEPLOYTOOL_DTYPE": "float16", "DEPLOYTOOL_PORT": "4711", "DEPLOYTOOL_HOME": "/x"}
    plan = ready("bge-m3", "a10g", environ=environ, flags={"port": "4712"}).plan
    origins = {value.name: (value.value, value.origin) for value in plan.values}
    assert origins["dtype"] == ("float16", "environment")
    assert origins["port"] == (4712, "flag")
    assert origins["host"] == ("127.0.0.1", "default")
    engine = ready("qwen3-4b", "a10g", environ={"DEPLOYTOOL_ENGINE": "sentence-transformers"}).plan.engine
    assert engine == "sentence-transformers"


def test_profile_and_card_set_defaults(tmp_path: Path) -> None:
    """A user's own profile and card: engine defaults and model defaults, each with its origin."""
    root = Path(__file__).parent.parent / "profiles"
    for kind, name, line in (
        ("hardware", "a10g", "engine_defaults: {sglang: {chunked_prefill_size: 2048, max_length: 512}}"),
        ("models", "qwen3-0.6b", "defaults: {max_length: 1024, enable_metrics: false}"),
    ):
        (tmp_path / kind).mkdir()
        text = (root / kind / f"{name}.yaml").read_text(encoding="utf-8")
        (tmp_path / kind / f"{name}.yaml").write_text(f"{text}\n{line}\n", encoding="utf-8")
    plan = prepare("qwen3-0.6b", "a10g", flags={}, environ={}, catalog=Catalog(tmp_path), verify=False).plan
    origins = {value.name: (value.value, value.origin) for value in plan.values}
    assert origins["chunked_prefill_size"] == (2048, "hardware profile")
    assert origins["max_length"] == (512, "hardware profile")
    assert origins["enable_metrics"] == (False, "model card")


MISFITS: list[tuple[str, str, dict[str, Any]]] = [
    ("qwen3-8b", "a10g", {"engine": "sglang", "flags": {"max_length": 32768}}),
    ("qwen3-8b", "rtx3060-12gb", {}),
    ("qwen3-8b", "t4", {}),
    ("qwen3-4b", "a10g", {"free_mib": 4000.0}),
    ("qwen3-4b", "t4", {"flags": {"dtype": "float32"}}),
    ("qwen3-0.6b", "a10g", {"engine": "sentence-transformers", "flags": {"batch": 4096, "max_length": 8192}}),
    ("qwen3-8b", "cpu", {"free_mib": 9000.0}),
]


@pytest.mark.parametrize(("model", "profile", "options"), MISFITS)
def test_every_offer_fits(model: str, profile: str, options: dict[str, Any]) -> None:
    with pytest.raises(PlanDoesNotFit) as caught:
        ready(model, profile, **options)
    assert caught.value.exit_code == 3
    plan = caught.value.prepared.plan
    assert plan.memory.verdict == "does_not_fit" and plan.suggestions
    for offer in plan.suggestions:
        again = dict(options) | {"flags": dict(options.get("flags", {}))}
        chosen, where = model, profile
        if found := re.fullmatch(r"--seq-len (\d+)", offer):
            again["flags"]["max_length"] = int(found[1])
        elif found := re.fullmatch(r"--batch (\d+)", offer):
            again["flags"]["batch"] = int(found[1])
        elif found := re.fullmatch(r"--set (\w+)=(\d+)", offer):
            again["flags"][found[1]] = found[2]
        elif found := re.fullmatch(r"--dtype (\w+)", offer):
            again["flags"]["dtype"] = found[1]
        elif found := re.fullmatch(r"--tp (\d+) \(\d+ cards\)", offer):
            again["flags"]["tensor_parallel"] = int(found[1])
        elif found := re.fullmatch(r"--engine (\S+)", offer):
            again["engine"] = found[1]
        elif found := re.fullmatch(r"the smaller model (\S+)", offer):
            chosen = found[1]
        elif found := re.fullmatch(r"--profile (\S+)", offer):
            where, again["free_mib"] = found[1], None
        else:
            pytest.fail(f"an offer that nobody can follow: {offer}")
        assert ready(chosen, where, **again).plan.memory.verdict in ("fits", "tight"), offer


def test_auto_takes_another_engine_where_only_that_fits() -> None:
    plan = ready("qwen3-4b", "a10g", free_mib=9_900.0).plan
    assert plan.engine == "sentence-transformers"
    assert any("sglang does not fit here" in warning for warning in plan.warnings)
    with pytest.raises(PlanDoesNotFit) as caught:
        ready("qwen3-4b", "a10g", free_mib=9_900.0, engine="sglang")
    assert "--engine sentence-transformers" in caught.value.prepared.plan.suggestions


def test_what_cannot_be_started() -> None:
    with pytest.raises(Incompatible, match="hosted API"):
        ready("voyage-code-3", "cpu")
    with pytest.raises(Incompatible, match="no engine"):
        ready("laser", "a10g")
    with pytest.raises(BadInput, match="2 settings"):
        ready("qwen3-4b", "a10g", flags={"max_queue": "1", "nothing": "1"})
    with pytest.raises(NotAvailable, match="consumer"):
        ready("qwen3-4b", "consumer")


def test_an_engine_of_another_version_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "sglang"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "lib" / "python3.12" / "site-packages" / "sglang-0.6.1.dist-info").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    plan = ready("qwen3-4b", "a10g").plan
    assert plan.launch.engine_version == "0.6.1"
    assert any(
        "sglang 0.6.1 is installed; its flags and memory are known for 0.5.23" in w for w in plan.warnings
    )


def test_plan_prints_one_document(cli: CommandLine) -> None:
    answer = cli("plan", "qwen3-4b", "--profile", "a10g", "--json")
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert document["argv"][:2] == ["sglang", "serve"]
    assert (document["engine"], document["dtype"], document["tensor_parallel"]) == ("sglang", "bfloat16", 1)
    assert document["memory"]["verdict"] == "fits"


def test_plan_for_people_can_be_pasted(cli: CommandLine, minilm_folder: Path) -> None:
    answer = cli("plan", "all-minilm-l6-v2", "--profile", "cpu", "--set", "max_queue=9", "--port", "8123")
    assert answer.returncode == 0, answer.stderr
    command = answer.stdout.split("\n\n")[1].replace("\\\n", " ")
    words = shlex.split(command)
    assert words[0] == "HF_HUB_OFFLINE=1" and str(minilm_folder) in words
    assert words[words.index("--max-queue") + 1] == "9"
    assert re.search(r"^max_queue +9 +flag", answer.stdout, re.MULTILINE)
    assert re.search(r"^left free +[\d,]+", answer.stdout, re.MULTILINE)
    assert re.search(r"^verdict +fits", answer.stdout, re.MULTILINE)


def test_a_misfit_still_prints_its_plan(cli: CommandLine) -> None:
    answer = cli("plan", "qwen3-8b", "--profile", "t4", "--json")
    assert answer.returncode == 3
    document = json.loads(answer.stdout)
    assert document["memory"]["verdict"] == "does_not_fit" and document["suggestions"]
    assert document["error"]["code"] == "does_not_fit" and document["argv"]
    text = cli("plan", "qwen3-8b", "--profile", "t4")
    assert text.returncode == 3
    assert "does not fit" in text.stdout and "what fits: " in text.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["all-minilm-l6-v2", "--profile", "a10g", "--engine", "sglang"],
            4,
            "take --engine sentence-transformers",
        ),
        (["voyage-code-3", "--profile", "cpu"], 4, "hosted API"),
        (["qwen3-4b", "--profile", "a10gg"], 2, "a10g"),
        (["qwen3-4b", "--profile", "a10g", "--engine", "sglan"], 2, "sglang"),
        (["qwen3-4b", "--profile", "a10g", "--set", "x"], 2, "name=value"),
        (["qwen3-4b", "--profile", "a10g", "--set", "tensor_parallel=x"], 2, "a whole number"),
        (["qwen3-4b", "--profile", "a10g", "--api-key-file", "/none"], 2, "cannot read"),
        (["qwen3-4b", "--profile", "a10g", "--host", "0.0.0.0"], 2, "--api-key-file"),
    ],
)
def test_what_is_wrong_has_its_exit_code_and_mend(
    cli: CommandLine, arguments: list[str], code: int, said: str
) -> None:
    answer = cli("plan", *arguments)
    assert answer.returncode == code, answer.stderr
    assert said in answer.stderr


def test_a_key_is_in_no_plan(cli: CommandLine, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("very-secret-key\n")
    for arguments in (["--api-key-file", str(key)], []):
        for engine in ("sglang", "sentence-transformers"):
            answer = cli(
                "plan", "qwen3-0.6b", "--profile", "a10g", "--engine", engine, "--json", *arguments,
                env={} if arguments else {"DEPLOYTOOL_API_KEY": "very-secret-key"},
            )  # fmt: skip
            assert answer.returncode == 0, answer.stderr
            assert "very-secret-key" not in answer.stdout + answer.stderr
            assert ("{secret_file}" in answer.stdout) is (engine == "sglang")
