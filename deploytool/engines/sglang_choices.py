"""How each setting of an SGLang server is chosen: by the user, else by model, card and what was sized."""

from __future__ import annotations

from deploytool.engines import sizes
from deploytool.engines.sglang_command import describe_sizes, matryoshka_sizes
from deploytool.engines.sglang_sizing import Sizer, Sizing, Wanted
from deploytool.engines.sglang_versions import HALF_KERNEL_HEADS, Knowledge
from deploytool.errors import BadInput, Incompatible
from deploytool.hardware import Dtype, HardwareProfile
from deploytool.memory import judge
from deploytool.models import ModelCard
from deploytool.paths import packaged
from deploytool.planning import AUTO, PlanRequest
from deploytool.planning.choices import tensor_parallel_choices, tensor_parallel_problem
from deploytool.settings import Resolver


def wanted(values: Resolver) -> Wanted:
    def number(name: str) -> int | None:
        found = values.given(name)
        return None if found is None else int(str(found.value))

    fraction = values.given("mem_fraction_static")
    return Wanted(
        chunk=number("chunked_prefill_size"),
        prefill_tokens=number("max_prefill_tokens"),
        pool_tokens=number("max_total_tokens"),
        fraction=None if fraction is None else float(str(fraction.value)),
        truncate=bool(values.resolve("allow_auto_truncate")),
    )


def held(lengths: list[int], wanted: Wanted) -> list[int]:
    """The lengths that a pool given by the user holds: a longer text would wait in it for ever."""
    if wanted.pool_tokens is None:
        return lengths
    held = [length for length in lengths if length + wanted.headroom <= wanted.pool_tokens]
    if not held:
        needed = lengths[-1] + wanted.headroom
        raise BadInput(
            f"max_total_tokens={wanted.pool_tokens} cannot hold a text of {lengths[-1]} tokens",
            hint=f"lower --seq-len, or --set max_total_tokens={needed} or more",
        )
    return held


def cards(
    values: Resolver, card: ModelCard, hardware: HardwareProfile, request: PlanRequest, copies: int | None
) -> list[int]:
    """Tensor-parallel sizes to try: the one asked for, or from one card up to those at hand for a copy."""
    arch = card.architecture
    given = values.given("tensor_parallel")
    if arch is None or (given is None and hardware.kind == "cpu"):
        return [1]
    if given is None:
        at_hand = max((request.gpus or 1) // (copies or 1), 1)
        return tensor_parallel_choices(arch, at_hand)
    asked = int(str(given.value))
    if asked > 1 and hardware.kind == "cpu":
        raise BadInput(f"--tp {asked}: the profile {hardware.name} has no cards", hint="leave --tp out")
    problem = tensor_parallel_problem(arch, asked)
    if problem:
        usable = ", ".join(map(str, tensor_parallel_choices(arch, 8)))
        raise Incompatible(f"{card.name} on {asked} cards: {problem}", hint=f"--tp one of {usable}")
    if request.gpus is not None and asked > request.gpus:
        raise BadInput(
            f"--tp {asked} needs {asked} cards, there are {request.gpus}", hint=f"--tp {request.gpus}"
        )
    return [asked]


def copies_asked(values: Resolver, hardware: HardwareProfile) -> int | None:
    """Copies of the model that were asked for; None: as many as the cards left over hold."""
    given = values.given("data_parallel")
    if given is None:
        return 1
    if hardware.kind == "cpu" and given.value not in (1, AUTO):
        raise BadInput(
            f"data_parallel={given.value}: the profile {hardware.name} has no cards", hint="leave it out"
        )
    return None if given.value == AUTO else int(str(given.value))


def copies(
    values: Resolver, sizing: Sizing, hardware: HardwareProfile, request: PlanRequest, warnings: list[str]
) -> int:
    """Copies of the model, each on cards of its own; BadInput where there are not so many cards.

    Cards that would stay idle are said, and not taken unasked: other programs may be meant for them.
    """
    asked = copies_asked(values, hardware)
    each, at_hand = sizing.tensor_parallel, request.gpus
    most = max((at_hand or 1) // each, 1)
    if asked is None:
        why = f"{at_hand or 1} cards, {each} for a copy"
        values.resolve("data_parallel")
        values.fix("data_parallel", most if hardware.kind != "cpu" else 1, why)
        return most if hardware.kind != "cpu" else 1
    if at_hand is not None and asked > 1 and asked * each > at_hand:
        raise BadInput(
            f"data_parallel={asked} with {each} cards for a copy needs {asked * each} cards,"
            f" there are {at_hand}",
            hint=f"--set data_parallel={most}, or auto",
        )
    values.resolve("data_parallel", why="" if values.given("data_parallel") else "one copy")
    if asked == 1 and most > 1 and values.given("data_parallel") is None and hardware.kind == "gpu":
        warnings.append(
            f"{at_hand} cards are here, {each} will be used: --set data_parallel={most} puts a copy on all"
        )
    return asked


def quantization(
    values: Resolver,
    card: ModelCard,
    hardware: HardwareProfile,
    known: Knowledge,
    dtype: Dtype,
    warnings: list[str],
) -> sizes.Stored | None:
    """How the weights are stored; None: as they are. Incompatible where card, files or dtype forbid it."""
    given = values.given("quantization")
    if given is None and card.quantization is None:
        values.resolve("quantization", why="weights as they are")
        return None
    method = str(given.value) if given is not None else _kind_of(card, hardware, known)
    way = known.quantizations[method]
    _check_quantization(method, card, hardware, known, dtype)
    if given is None:
        values.resolve("quantization", method, "how the model's files are stored")
    else:
        values.resolve("quantization")
    if way.online and card.quantization is None:
        warnings.append(
            f"{method} rounds the weights: compare with `deploytool verify`, or `eval`, before use"
        )
        if hardware.capability is not None and hardware.capability < (8, 9):
            warnings.append(f"{hardware.name} computes {method} in 16 bit: it saves memory, no time")
    return sizes.Stored(method, way.bits, online=way.online and card.quantization is None)


def _kind_of(card: ModelCard, hardware: HardwareProfile, known: Knowledge) -> str:
    """SGLang's method for the files' own, the fastest that the card has kernels for."""
    stored = card.quantization or ""
    usable = [
        method
        for method, way in known.quantizations.items()
        if stored in way.reads and (hardware.capability or (0, 0)) >= way.capability
    ]
    if not usable:
        methods = sorted({kind for way in known.quantizations.values() for kind in way.reads})
        raise Incompatible(
            f"{card.name} is stored as {stored}, which is not known to run on {hardware.name}",
            hint=f"take the unquantised model; known are {', '.join(methods)}",
        )
    return max(usable, key=lambda method: known.quantizations[method].capability)


def _check_quantization(
    method: str, card: ModelCard, hardware: HardwareProfile, known: Knowledge, dtype: Dtype
) -> None:
    way = known.quantizations[method]
    if hardware.kind == "cpu":
        raise Incompatible(f"quantization={method} needs an NVIDIA card", hint="leave quantization out")
    if hardware.capability is None or hardware.capability < way.capability:
        needed = ".".join(map(str, way.capability))
        raise Incompatible(
            f"quantization={method} needs compute capability {needed}, {hardware.name} has"
            f" {hardware.compute_capability}",
            hint="leave quantization out, or take a newer card",
        )
    if card.architecture is not None and card.architecture.class_name in known.bidirectional:
        raise Incompatible(
            f"{card.name} is no decoder: quantised, its vectors are not known to be right",
            hint="leave quantization out: it is small as it is",
        )
    if card.quantization is not None and card.quantization not in way.reads:
        raise Incompatible(
            f"{card.name} is stored as {card.quantization}: it cannot be served as {method}",
            hint="leave quantization out: it is read off the model's files",
        )
    if card.quantization is None and not way.online:
        raise Incompatible(
            f"quantization={method} needs weights that were stored so; those of {card.name} are not",
            hint=f"give a folder with its {method.split('_', maxsplit=1)[0]} version, or --set quantization=fp8",
        )
    if dtype not in way.dtypes:
        raise Incompatible(
            f"quantization={method} computes in {' or '.join(way.dtypes)}, not in {dtype}",
            hint=f"--dtype {way.dtypes[0]}",
        )


def template(values: Resolver, card: ModelCard, known: Knowledge) -> str | None:
    """The file with a reranker's prompt; None for an embedder, which gets its text as it is."""
    name = known.rerankers.get(card.architecture.class_name) if card.architecture else None
    if card.kind != "reranker" or name is None:
        if values.given("chat_template") is not None:
            raise Incompatible(
                f"{card.name} is no reranker: a chat template has no effect on its vectors",
                hint="leave chat_template out",
            )
        return None
    own = packaged("profiles") / "templates" / name
    return str(values.resolve("chat_template", str(own), "the prompt that the model was trained with"))


def explain(values: Resolver, sizer: Sizer, sizing: Sizing, card: ModelCard, warnings: list[str]) -> None:
    """Resolve what was sized, each value with why it is so."""
    fits = judge(sizing.need, sizer.basis.available_mib) != "does_not_fit"
    values.resolve("tensor_parallel", sizing.tensor_parallel, "the fewest cards that fit" if fits else "")
    sizes.explain_length(values, card, sizing.asked, fits=fits)
    if fits:
        sizes.note_shortened(values, card, sizing.asked, warnings)
    if sizing.longest < sizing.asked:
        why = "SGLang takes texts that are shorter than the model's context"
        values.fix("max_length", sizing.longest, why)
        warnings.append(f"SGLang reads {sizing.longest} of the model's {card.max_tokens} tokens; longer: 400")
    values.fix("context_length", sizing.context_length, "SGLang takes texts that are shorter than this")
    values.resolve("batch", why="no effect: SGLang cuts what is in flight into prefills of its own")
    if sizer.whole_texts:
        if values.given("chunked_prefill_size") is not None:
            raise Incompatible(
                f"{card.name} attends both ways: a text cut into chunks would give a wrong vector",
                hint="leave chunked_prefill_size out; --set max_prefill_tokens=N bounds a prefill",
            )
        values.fix("chunked_prefill_size", -1, "attention looks both ways: a text must not be cut")
        values.resolve("max_prefill_tokens", sizing.prefill_tokens, "SGLang's prefill size for this card")
    else:
        values.resolve("chunked_prefill_size", sizing.chunk, "what fits of SGLang's size for this card")
        values.resolve("max_prefill_tokens", sizing.prefill_tokens, "as chunked_prefill_size")
    pool_why = f"a text of {sizing.longest} tokens and two prefills: all that is ever in flight"
    if sizing.capped:
        values.resolve("max_total_tokens", sizing.pool_tokens, pool_why)
    else:
        values.resolve("max_total_tokens", why=f"not capped; the fraction gives about {sizing.pool_tokens}")
    values.resolve("mem_fraction_static", sizing.fraction, sizing.fraction_why)


def resolve_rest(
    values: Resolver, card: ModelCard, hardware: HardwareProfile, known: Knowledge, dtype: Dtype
) -> None:
    """What does not hang on memory."""
    name = card.architecture.class_name if card.architecture else ""
    values.resolve("served_model_name", card.name, "the model card's name")
    values.resolve("max_running_requests", why="SGLang's own")
    backend, why = _attention(card, hardware, dtype)
    values.resolve("attention_backend", backend, why)
    cls = known.pooling.get(name) == "cls" and card.kind != "reranker"
    why = "CLS pooling would take the first token that is not cached" if cls else ""
    cache_off = values.resolve("disable_radix_cache", cls or None, why)
    if cls and not cache_off:
        raise Incompatible(
            f"with the radix cache {card.name} gets wrong vectors: CLS takes the first uncached token",
            hint="leave disable_radix_cache as it is",
        )
    values.resolve("enable_metrics")
    values.resolve("matryoshka", matryoshka_sizes(card.matryoshka), describe_sizes(card.matryoshka))


def _attention(card: ModelCard, hardware: HardwareProfile, dtype: Dtype) -> tuple[str | None, str]:
    """The attention kernels, and why; None: SGLang's own choice for the card."""
    if hardware.kind == "cpu":
        return "torch_native", "the one that runs on every processor"
    if dtype == "float32":
        return "triton", "the kernels that SGLang takes by itself compute 16-bit numbers only"
    size = card.architecture.head_dim if card.architecture else HALF_KERNEL_HEADS[0]
    if size not in HALF_KERNEL_HEADS:
        return "triton", f"FlashInfer has no kernels for heads of {size}"
    return None, "SGLang's own for this card"
