"""`fit`: the matrix says what `plan` says, in every format, whatever is asked of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.fitting import Fit, fits
from deploytool.memory import MIB, kv_bytes_per_token
from deploytool.planning import PlanRequest
from deploytool.plans import Known

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
CATALOG = Catalog()
NOTHING = Known({}, ())


def one(model: str, profile: str, **options: object) -> Fit:
    found = fits([CATALOG.model(model)], [CATALOG.hardware(profile)], NOTHING, **options)  # type: ignore[arg-type]
    assert len(found) == 1
    return found[0]


def test_a_cell_is_the_plan_of_an_idle_card() -> None:
    cell = one("qwen3-4b", "a10g")
    plan = ENGINES["sglang"].plan(CATALOG.model("qwen3-4b"), CATALOG.hardware("a10g"), PlanRequest(gpus=8))
    assert (cell.verdict, cell.engine, cell.dtype, cell.tensor_parallel) == ("fits", "sglang", "bfloat16", 1)
    assert (cell.expected_mib, cell.left_free_mib) == (plan.memory.expected_mib, plan.memory.left_free_mib)
    assert cell.max_length == 8192
    arch = CATALOG.model("qwen3-4b").architecture
    assert arch is not None and cell.texts is not None and plan.memory.pool_mib is not None
    room = plan.memory.pool_mib + 22541 - plan.memory.upper_mib
    assert cell.texts == int(room / (kv_bytes_per_token(arch, "bfloat16") / MIB) / 8192)


def test_the_largest_batch_fits_and_twice_as_much_does_not() -> None:
    cell = one("nomic-v1.5", "t4")
    assert cell.engine == "sentence-transformers" and cell.texts is not None
    for texts, verdict in ((cell.texts, "fits"), (2 * cell.texts, "does_not_fit")):
        request = PlanRequest(flags={"batch": texts, "max_length": cell.max_length or 0})
        plan = ENGINES["sentence-transformers"].plan(
            CATALOG.model("nomic-v1.5"), CATALOG.hardware("t4"), request
        )
        assert plan.memory.verdict in (verdict, "tight")


def test_cards_are_shared_only_where_one_is_too_small() -> None:
    assert one("qwen3-8b", "t4").tensor_parallel == 2
    assert one("qwen3-8b", "a10g").tensor_parallel == 1
    alone = one("qwen3-8b", "t4", cards=1)
    assert alone.verdict == "does_not_fit" and "needs about" in alone.reason and alone.texts is None


def test_what_is_not_served_says_why() -> None:
    assert "no engine" in one("laser", "a10g").reason
    assert one("laser", "a10g").verdict == "not_served"
    assert "reads 256 tokens" in one("all-minilm-l6-v2", "a10g", flags={"max_length": 512}).reason
    assert one("qwen3-0.6b", "jetson-orin").verdict == "unknown"


def test_apis_and_aliases_are_left_out() -> None:
    found = fits(CATALOG.model_cards(), CATALOG.hardware_profiles(), NOTHING)
    assert not {entry.model for entry in found} & {"voyage-code-3", "openai-3-large"}
    assert "consumer" not in {entry.profile for entry in found}
    models = [card for card in CATALOG.model_cards() if card.kind != "api"]
    profiles = [hardware for hardware in CATALOG.hardware_profiles() if hardware.kind != "alias"]
    assert len(found) == len(models) * len(profiles) > 200


def test_the_matrix_of_everything(cli: CommandLine) -> None:
    text = cli("fit", env={"COLUMNS": "100"})
    assert text.returncode == 0, text.stderr
    assert all(
        len(line) <= 100 for line in text.stdout.splitlines() if not line.startswith(("fits:", "one of"))
    )
    for name in ("qwen3-8b", "rtx3060-12gb", "fits x2", "laser"):
        assert name in text.stdout
    markdown = cli("fit", "--format", "markdown").stdout.splitlines()
    assert markdown[0].startswith("| card | all-minilm-l6-v2 |") and markdown[1].startswith("|---|---|")
    assert len({line.count("|") for line in markdown if line.startswith("|")}) == 1
    cells = json.loads(cli("fit", "--json").stdout)
    assert {"model", "profile", "verdict", "texts", "left_free_mib"} <= cells[0].keys()


def test_one_model_and_one_card_in_full(cli: CommandLine) -> None:
    model = cli("fit", "qwen3-8b")
    assert model.returncode == 0, model.stderr
    line = next(line for line in model.stdout.splitlines() if line.startswith("rtx3060-12gb"))
    assert line.split()[:5] == ["rtx3060-12gb", "fits", "sglang", "bfloat16", "2"]
    card = cli("fit", "--profile", "t4", "--models", "qwen3-0.6b,bge-m3", "--seq-len", "512")
    assert [line.split()[0] for line in card.stdout.splitlines()[3:5]] == ["qwen3-0.6b", "bge-m3"]
    assert " x 512 " in card.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("qwen3-9b",), "qwen3-8b"), (("--profile", "a10gg"), "a10g"), (("--format", "csv"), "csv"),
     (("--cards", "9"), "--cards")],
)  # fmt: skip
def test_what_is_wrong_with_a_question(cli: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    answer = cli("fit", *arguments)
    assert answer.returncode == 2 and said in answer.stderr
