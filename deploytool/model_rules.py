"""What must hold between the fields of a model card, beyond what each field says by itself."""

from __future__ import annotations

from collections.abc import Iterator

from deploytool.documents import Fault
from deploytool.models import Matryoshka, ModelCard, computed_parameters

TOLERANCE = 0.02  # published parameter counts are often rounded: 161M, 125M


def model_faults(card: ModelCard) -> Iterator[Fault]:
    """What is wrong between the fields of a card. Fields that could not be read are None."""
    yield from _home_faults(card)
    yield from _vector_faults(card)
    yield from _architecture_faults(card)
    for name, support in (card.engines or {}).items():
        if support.verdict != "ok" and not support.reason:
            yield Fault(("engines", name, "reason"), f"a verdict of {support.verdict} says why")
    for file, digest in (card.sha256 or {}).items():
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            yield Fault(("sha256", file), "expected a sha256 digest: 64 hexadecimal digits, lower case")
        if file.startswith(("/", "~")) or ".." in file.split("/"):
            yield Fault(("sha256", file), "expected a file below the model's folder")


def _home_faults(card: ModelCard) -> Iterator[Fault]:
    """Where the model is: an API, a hub id, a package or a folder."""
    if card.kind == "api" and card.api is None:
        yield Fault(("api",), "a hosted API (kind: api) needs this: {provider, base_url, key_env}")
    if card.kind is not None and card.kind != "api":
        if card.api is not None:
            yield Fault(("api",), f"belongs to a hosted API (kind: api), not to kind: {card.kind}")
        servable = any(support.verdict == "ok" for support in (card.engines or {}).values())
        if servable and not (card.hub_id or card.packaged or card.folder):
            yield Fault(("hub_id",), "one of hub_id, packaged and folder says where the model's files are")
    if card.revision is not None and card.hub_id is None:
        yield Fault(("revision",), "a revision belongs to a hub_id")


def _vector_faults(card: ModelCard) -> Iterator[Fault]:
    if card.kind in ("embedding", "api") and card.dimensions is None:
        yield Fault(("dimensions",), "this field is required: the full width of a vector")
    if card.matryoshka is not None:
        # A hosted API may offer sizes above the one that it gives by default.
        widest = card.dimensions if card.kind != "api" else None
        yield from _matryoshka_faults(card.matryoshka, widest)
    if card.prompts is not None:
        for name in ("query", "document"):
            text = getattr(card.prompts, name)
            if "{task}" in text and card.prompts.task is None:
                yield Fault(
                    ("prompts", "task"), f"prompts.{name} has {{task}}: this says what it is by default"
                )
            if "{query}" in text or "{text}" in text:
                yield Fault(("prompts", name), "the text follows the prompt: leave the place for it out")


def _matryoshka_faults(matryoshka: Matryoshka, dimensions: int | None) -> Iterator[Fault]:
    place = ("matryoshka",)
    low, high = matryoshka.minimum, matryoshka.maximum
    if bool(matryoshka.sizes) == (low is not None or high is not None):
        yield Fault(place, "expected either sizes: [...] or minimum and maximum")
    elif not matryoshka.sizes and (low is None or high is None or low > high):
        yield Fault(place, "expected both minimum and maximum, minimum first")
    if dimensions is None:
        return
    for index, size in enumerate(matryoshka.sizes):
        if not 0 < size <= dimensions:
            yield Fault((*place, "sizes", index), f"expected a size from 1 to dimensions ({dimensions})")
    if high is not None and high > dimensions:
        yield Fault((*place, "maximum"), f"expected at most dimensions ({dimensions}), got {high}")


def _architecture_faults(card: ModelCard) -> Iterator[Fault]:
    architecture = card.architecture
    if architecture is None:
        return
    if architecture.heads % architecture.kv_heads:
        yield Fault(
            ("architecture", "kv_heads"), f"expected a divisor of heads ({architecture.heads}),"
            f" got {architecture.kv_heads}",
        )  # fmt: skip
    positions = architecture.max_positions
    if positions is not None and card.max_tokens is not None and card.max_tokens > positions:
        yield Fault(("max_tokens",), f"expected at most architecture.max_positions ({positions})")
    if card.trained_tokens and card.max_tokens and card.trained_tokens > card.max_tokens:
        yield Fault(("trained_tokens",), f"expected at most max_tokens ({card.max_tokens})")
    computed = computed_parameters(card)
    if computed and card.parameters and abs(computed - card.parameters) > TOLERANCE * computed:
        yield Fault(
            ("parameters",),
            f"the architecture adds up to {computed:,}, more than {TOLERANCE:.0%} from {card.parameters:,}",
        )
