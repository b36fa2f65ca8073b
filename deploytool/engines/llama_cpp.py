"""llama.cpp's server (`llama-server --embedding`) for GGUF files, on processors and small boards.

It is found on PATH. Flags: tools/server/README.md and common/arg.cpp of ggml-org/llama.cpp, build 11434. An
embedding is computed in one physical batch, so `--ubatch-size` must hold the longest text; slots share
`--ctx-size` evenly. `/health` answers 503 while the model loads and wants no key.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from deploytool import gguf_card
from deploytool.engines import common, sizes
from deploytool.engines.faults import COMMON, Fault, classify
from deploytool.engines.st_sizing import first_that_fits
from deploytool.errors import BadInput, Incompatible
from deploytool.hardware import HardwareProfile
from deploytool.launch import SECRET_FILE, LaunchSpec, Readiness, SecretUse
from deploytool.memory import MIB, MemoryEstimate, Range, activations, judge
from deploytool.models import EngineSupport, ModelCard
from deploytool.planning import Cause, EngineImage, Plan, PlanRequest
from deploytool.settings import Resolver, Setting

NAME = "llama-cpp"
PROGRAM = "llama-server"
PORT = 8081
SLOTS = 4
BATCH_TOKENS = 2048
POOLINGS = ("mean", "cls", "last")
CONTEXT = Range(20, 60, 150)  # MiB: the process without weights and buffers
SHARED = ("served_model_name", "max_length", "batch", "tensor_parallel")

SETTINGS = (
    *common.network_settings(PORT),
    *(setting for setting in common.MODEL_SETTINGS if setting.name in SHARED),
    Setting(name="dtype", type="str", help="what the file is stored in; a GGUF file fixes it"),
    Setting(name="gguf", type="str", help="the GGUF file of the model whose card is named"),
    Setting(name="threads", type="int", minimum=1, help="processor threads that compute"),
    Setting(name="max_batch_tokens", type="int", minimum=16, help="tokens of one forward pass"),
    common.POOLING,
)
FAULTS = (
    Fault(
        r"couldn't bind HTTP server socket", "port", "the port is in use", "--port auto, or another --port"
    ),
    Fault(
        r"error: invalid argument|unknown argument",
        "bad_flag",
        "llama-server does not take a flag",
        "see --help",
    ),
    Fault(
        r"unknown model architecture",
        "unknown",
        "this llama-server does not know the model's architecture",
        "take a newer llama.cpp",
    ),
    Fault(
        r"failed to open GGUF file|gguf_init_from_file|failed to load model",
        "missing_model",
        "the GGUF file could not be loaded",
        "download or convert it again",
    ),
    *COMMON,
)
STAGES = (
    (re.compile(r"loading model"), "loading model"),
    (re.compile(r"warming up"), "warming up"),
    (re.compile(r"model loaded"), "model loaded"),
)


class LlamaCpp:
    """See planning.Engine."""

    name = NAME
    install = f"install llama.cpp, so that {PROGRAM} is on PATH (github.com/ggml-org/llama.cpp)"
    versions: tuple[str, ...] = ("11434",)
    settings: tuple[Setting, ...] = SETTINGS
    hazards: tuple[str, ...] = ()

    def support(self, card: ModelCard) -> EngineSupport:
        if NAME in card.engines:
            return card.engines[NAME]
        if card.gguf is None:
            return EngineSupport(
                verdict="unsupported", reason="it serves GGUF files: give one (FILE.gguf, or --set gguf=FILE)"
            )
        if card.kind not in ("embedding", "encoder"):
            return EngineSupport(verdict="unsupported", reason=f"a {card.kind} gives no embeddings")
        if card.remote_code.required:
            return EngineSupport(
                verdict="wrong-vectors",
                reason="the model needs code of its own, which llama.cpp does not run",
            )
        if card.kind == "embedding" and card.pooling not in POOLINGS:
            return EngineSupport(
                verdict="wrong-vectors",
                reason=f"{PROGRAM} pools {', '.join(POOLINGS)}, the model needs {card.pooling or 'several'}",
            )
        return EngineSupport(verdict="ok", reason="pooling by the card, vectors of length 1")

    def refuses(self, hardware: HardwareProfile) -> str | None:
        if hardware.kind != "cpu":
            return f"{NAME} is planned on processors: --profile cpu, also on a board"
        return None

    def plan(self, card: ModelCard, hardware: HardwareProfile, request: PlanRequest) -> Plan:
        if card.gguf is None:
            raise Incompatible(f"{NAME} serves GGUF files, and none is named", hint="--set gguf=FILE.gguf")
        values = common.resolver(NAME, SETTINGS, card, hardware, request)
        warnings: list[str] = []
        host, port = common.resolve_network(values, request)
        _fixed(values, card)
        memory = _size(values, card, hardware, request, warnings)
        pooling = common.resolve_pooling(values, card, warnings) or str(card.pooling)
        if not card.normalize:
            warnings.append(f"{PROGRAM} brings vectors to length 1; {card.name} does not")
        if request.cpus is not None:
            values.resolve("threads", request.cpus, "physical cores that this process may use")
        else:
            values.resolve("threads", why="the server's own: processors that it may use")
        values.resolve("served_model_name", card.name, "the model card's name")
        launch = LaunchSpec(
            engine=NAME,
            engine_version=request.engine_version,
            argv=_argv(values, card.gguf, host, port, pooling, with_key=request.with_key),
            secret=SecretUse(kind="file", template="{key}\n") if request.with_key else None,
            model=str(values.values["served_model_name"].value),
            model_path=card.gguf,
            host=host,
            port=port,
            readiness=Readiness(path="/health", probe_timeout_s=5, start_timeout_s=300),
        )
        return common.finish(card, hardware, values, memory, launch, warnings)

    def image(self, hardware: HardwareProfile, driver: str | None) -> EngineImage:  # noqa: ARG002
        raise Incompatible(f"{NAME} is started as a process only", hint="--runtime process")

    def installed(self) -> str | None:
        """The build number that `llama-server --version` says; None where it is not on PATH."""
        beside = Path(sys.executable).with_name(PROGRAM)
        program = shutil.which(PROGRAM) or (str(beside) if beside.is_file() else None)
        if program is None:
            return None
        try:
            done = subprocess.run(
                [program, "--version"], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        # "version: 0.5.0 (build 11434, commit abc)", before that "version: 6000 (abc)"
        found = re.search(r"build (\d+)|version: (\d+) \(", done.stdout + done.stderr)
        return found.group(1) or found.group(2) if found else "unknown"

    def stage(self, line: str) -> str | None:
        return next((name for pattern, name in STAGES if pattern.search(line)), None)

    def diagnose(self, log_tail: str) -> Cause | None:
        return classify(log_tail, FAULTS)


def _fixed(values: Resolver, card: ModelCard) -> None:
    """What a file and this engine leave no choice of. BadInput where another is asked for."""
    stored = gguf_card.number_format(Path(str(card.gguf)))
    if values.given("dtype") is not None and values.resolve("dtype") != stored:
        raise BadInput(
            f"the file is stored in {stored}: dtype cannot be chosen",
            hint="leave --dtype out, or take a file of another format",
        )
    values.fix("dtype", stored, "the file's own")
    if values.resolve("tensor_parallel", 1, "this engine computes on processors") != 1:
        raise BadInput(f"{NAME} computes on processors here", hint="leave --tp out")
    values.resolve("gguf", card.gguf, "the model")


def _size(
    values: Resolver, card: ModelCard, hardware: HardwareProfile, request: PlanRequest, warnings: list[str]
) -> MemoryEstimate:
    """The longest texts that fit, in `batch` slots. Activations in float32, keys and values in float16."""
    basis = sizes.basis(card, hardware, request, "float32", lm_head=False)
    held = request.weights_bytes or Path(str(card.gguf)).stat().st_size
    basis = basis._replace(stored=sizes.Stored("gguf", 0, online=False), stored_bytes=held)
    weights = basis.weights()
    slots = int(str(values.resolve("batch", SLOTS, "texts that are computed side by side")))
    fixed = values.given("max_batch_tokens")

    def parts(longest: int, tokens: int) -> tuple[Range, Range]:
        cache = slots * longest * basis.arch.kv_bytes_per_token() / MIB
        scores = basis.arch.heads * tokens * longest * 4 / MIB
        rest = Range(weights, weights, weights * 1.1).plus(CONTEXT).plus(Range(0, cache, cache))
        work = activations(basis.arch, "float32", tokens=tokens).plus(Range(0, scores / 2, scores))
        return rest, work

    def verdict(longest: int, tokens: int) -> str:
        return judge(basis.need(*parts(longest, tokens)), basis.available_mib)

    tries = [
        (length, max(length, int(str(fixed.value)) if fixed else BATCH_TOKENS))
        for length in sizes.lengths(values, card)
    ]
    longest, tokens = first_that_fits(tries, verdict)  # type: ignore[arg-type]
    sizes.explain_length(values, card, longest, fits=verdict(longest, tokens) != "does_not_fit")
    sizes.note_shortened(values, card, longest, warnings)
    values.fix("max_batch_tokens", tokens, "a text is computed in one pass: at least the longest one")
    rest, work = parts(longest, tokens)
    made = sizes.Parts(weights=weights, pool=None, rest=rest, work=work, context=CONTEXT.expected)
    return sizes.estimate(made, basis)


def _argv(
    values: Resolver, gguf: str, host: str, port: int, pooling: str, *, with_key: bool
) -> tuple[str, ...]:
    value = {name: entry.value for name, entry in values.values.items()}
    slots, longest, tokens = (int(str(value[name])) for name in ("batch", "max_length", "max_batch_tokens"))
    argv = [PROGRAM, "--model", gguf, "--alias", str(value["served_model_name"])]
    argv += ["--host", host, "--port", common.port_word(port)]
    argv += ["--embedding", "--pooling", pooling]
    argv += ["--ctx-size", str(slots * longest), "--parallel", str(slots)]
    argv += ["--batch-size", str(tokens), "--ubatch-size", str(tokens)]
    if value.get("threads") is not None:
        argv += ["--threads", str(value["threads"])]
    argv += ["--offline", "--no-webui", "--no-slots"]
    if with_key:
        argv += ["--api-key-file", SECRET_FILE]
    return tuple(argv)
