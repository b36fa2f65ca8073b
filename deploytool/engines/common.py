"""What the engines share: settings that all of them know, the layers of a plan, sizes and checks.

Functions to call and tables to extend, not a base class: an engine takes what it needs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from deploytool.errors import BadInput, Incompatible
from deploytool.hardware import Dtype, HardwareProfile, Scalar
from deploytool.launch import FREE_PORT, SECRET_FILE, LaunchSpec
from deploytool.memory import MemoryEstimate
from deploytool.models import EngineSupport, ModelCard
from deploytool.planning import AUTO, Plan, PlanRequest
from deploytool.planning.choices import check_dtype, choose_dtype
from deploytool.settings import Origin, Resolver, Setting, Value

LOOPBACK = "127.0.0.1"

MODEL_SETTINGS = (
    Setting(
        name="dtype",
        type="str",
        choices=("float32", "float16", "bfloat16"),
        help="number format of weights and activations",
    ),
    Setting(name="served_model_name", type="str", help='what clients send as "model"'),
    Setting(name="revision", type="str", help="commit, tag or branch of the hub repository"),
    Setting(
        name="trust_remote_code",
        type="bool",
        default=False,
        help="execute code of the model's repository; needs a pinned revision",
    ),
    Setting(name="max_length", type="int", minimum=16, help="longest text, in tokens (--seq-len)"),
    Setting(name="batch", type="int", minimum=1, help="longest texts in one forward pass (--batch)"),
    Setting(name="tensor_parallel", type="int", minimum=1, help="cards that share the model (--tp)"),
)
GGUF = EngineSupport(verdict="unsupported", reason="GGUF files are served by llama-cpp")
POOLING = Setting(
    name="pooling",
    type="str",
    choices=("mean", "cls", "last"),
    help="only for an encoder that ships no pooling of its own (--pooling)",
)


def network_settings(port: int) -> tuple[Setting, ...]:
    """Address and port, with the engine's usual port."""
    return (
        Setting(name="host", type="str", default=LOOPBACK, help="address to listen on"),
        Setting(
            name="port",
            type="int",
            minimum=1,
            maximum=65535,
            words=(AUTO,),
            default=port,
            help="port to listen on, or auto",
        ),
    )


def resolver(
    engine: str,
    settings: Sequence[Setting],
    card: ModelCard,
    hardware: HardwareProfile,
    request: PlanRequest,
) -> Resolver:
    """The layers of this launch, checked: BadInput lists every unknown name and bad value at once."""
    layers: list[tuple[Origin, dict[str, Scalar]]] = [
        ("flag", request.flags),
        ("environment", request.environment),
        ("deployment file", request.deployment_file),
        ("hardware profile", hardware.engine_defaults.get(engine, {})),
        ("model card", dict(card.defaults)),
    ]
    found = Resolver(settings, layers)
    found.check(engine, request.elsewhere)
    return found


def resolve_dtype(values: Resolver, card: ModelCard, hardware: HardwareProfile, warnings: list[str]) -> Dtype:
    """The dtype of this launch, checked against card and model; Incompatible where it cannot be."""
    computed, why = choose_dtype(card, hardware)
    name = values.resolve("dtype", computed, why)
    dtype: Dtype = "float32" if name == "float32" else "float16" if name == "float16" else "bfloat16"
    warnings.extend(check_dtype(dtype, card, hardware))
    return dtype


def resolve_network(values: Resolver, request: PlanRequest) -> tuple[str, int]:
    """Host and port (0: chosen at the start). BadInput for a public host without an API key."""
    host = str(values.resolve("host"))
    port = values.resolve("port")
    if not is_loopback(host) and not request.with_key:
        raise BadInput(
            f"host {host} can be reached from other machines, and no API key is set",
            hint="--host 127.0.0.1, or put a key into a file and give --api-key-file FILE",
        )
    return host, 0 if port == AUTO else int(str(port))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def port_word(port: int) -> str:
    return str(port) if port else FREE_PORT


def resolve_remote_code(values: Resolver, card: ModelCard, warnings: list[str]) -> bool:
    """Whether the model's own code may run. Off unless asked for, and then only of a pinned revision."""
    trusted = bool(values.resolve("trust_remote_code"))
    revision = values.resolve(
        "revision", card.revision, "the model card's pinned revision" if card.revision else ""
    )
    if card.remote_code is not None and card.remote_code.required and not trusted:
        raise Incompatible(
            f"{card.name} needs code of its repository: without it the vectors are wrong"
            + (f" ({card.remote_code.reason})" if card.remote_code.reason else ""),
            hint="read that code, then --set trust_remote_code=true --set revision=COMMIT",
        )
    local = card.folder is not None
    if trusted and revision is None and not local:
        raise BadInput(
            "trust_remote_code executes code of the model's repository and needs a pinned revision",
            hint="--set revision=COMMIT, the commit whose code you have read",
        )
    if trusted:
        warnings.append("code of the model's repository will be executed with your rights")
    return trusted


def resolve_pooling(values: Resolver, card: ModelCard, warnings: list[str]) -> str | None:
    """The pooling to ask of an engine that can be asked; None where the model ships its own.

    BadInput for an encoder that ships none where nobody chose one: each choice gives other vectors, and none
    is the model's. Incompatible where another one than the model's is asked for.
    """
    given = values.given("pooling")
    if card.kind != "encoder":
        if given is not None and values.resolve("pooling") != card.pooling:
            raise Incompatible(
                f"{card.name} needs {card.pooling} pooling: another one gives wrong vectors",
                hint="leave pooling out: the model ships it",
            )
        return None
    if given is None and card.pooling is None:
        raise BadInput(
            f"{card.name} is an encoder that ships no pooling: its vectors depend on the choice",
            hint="choose one: --pooling mean (the usual one), --pooling cls or --pooling last",
        )
    chosen = str(values.resolve("pooling", card.pooling, "the model card's"))
    warnings.append(
        f"{card.name} is not an embedding model: it ships no pooling, {chosen} is used; expect poor retrieval"
    )
    return chosen


def is_folder(path: str | None) -> bool:
    """Whether the model is given as a local folder (then nothing needs to be asked of a hub)."""
    return path is not None and (path.startswith(("/", "./", "../", "~")))


def key_words(request: PlanRequest) -> list[str]:
    return ["--config", SECRET_FILE] if request.with_key else []


def finish(
    card: ModelCard,
    hardware: HardwareProfile,
    values: Resolver,
    memory: MemoryEstimate,
    launch: LaunchSpec,
    warnings: Sequence[str],
) -> Plan:
    """The plan of resolved values; dtype and tensor parallelism are read from them."""
    tight = [f"memory is tight: {memory.reason}"] if memory.verdict == "tight" else []
    auto = ["port auto: a free port is chosen at the start"] if launch.port == 0 else []
    resolved: dict[str, Value] = values.values
    return Plan(
        model=card.name,
        profile=hardware.name,
        engine=launch.engine,
        dtype=str(resolved["dtype"].value),
        tensor_parallel=int(str(resolved["tensor_parallel"].value)),
        values=tuple(resolved.values()),
        memory=memory,
        launch=launch,
        warnings=(*warnings, *tight, *auto),
    )
