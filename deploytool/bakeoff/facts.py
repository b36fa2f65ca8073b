"""What a system takes and what it is: memory, sizes, price, languages, licence, place."""

from __future__ import annotations

import importlib.metadata

from deploytool import model_files
from deploytool.bakeoff.found import NOTHING_EMBEDDED, Found, no_load, unknown
from deploytool.decision import Figure
from deploytool.errors import DeploytoolError
from deploytool.retrieval.lexical import PACKAGES
from deploytool.wire.addresses import BaseUrl

MIB = 1024 * 1024
FLOAT32 = 4
MILLION = 1_000_000


def size(found: Found) -> dict[str, Figure]:
    if found.looked.system.kind == "baseline":
        nothing = unknown(NOTHING_EMBEDDED)
        return {
            "memory_peak_mib": _word_memory(found),
            "model_mib": unknown("has no model"),
            "dims": nothing,
            "bytes_per_vector": nothing,
            "index_mib_per_1m": _word_index(found),
        }
    dims = next((record.dims for record in found.evals.values() if record.dims), None)
    made = {"memory_peak_mib": _memory(found), "model_mib": _model(found)}
    if dims is None:
        reason = found.lacking
        return made | {name: unknown(reason) for name in ("dims", "bytes_per_vector", "index_mib_per_1m")}
    return made | {
        "dims": Figure(value=dims),
        "bytes_per_vector": Figure(value=dims * FLOAT32),
        "index_mib_per_1m": Figure(value=dims * FLOAT32 * MILLION / MIB),
    }


def _memory(found: Found) -> Figure:
    """The peak over all stages: of the cards where there are any, else of the processes."""
    vram = [stage.vram_peak_mib for stage in found.stages if stage.vram_peak_mib is not None]
    if vram:
        return Figure(value=max(vram), reason="VRAM of the server's cards")
    rss = [stage.rss_peak_mib for stage in found.stages if stage.rss_peak_mib is not None]
    if rss:
        return Figure(value=max(rss), reason="RSS of the server's processes")
    reasons = [stage.memory_reason for stage in found.stages if stage.memory_reason]
    return unknown(reasons[0] if reasons else found.lacking)


def _word_memory(found: Found) -> Figure:
    if not found.words:
        return unknown(found.lacking)
    return Figure(
        value=max(one.rss_mib for one in found.words.values()), reason="RSS of a process that holds the index"
    )


def _word_index(found: Found) -> Figure:
    largest = max(found.words.values(), key=lambda one: one.n_docs, default=None)
    if largest is None:
        return unknown(found.lacking)
    return Figure(
        value=largest.index_bytes / largest.n_docs * MILLION / MIB,
        reason=f"reckoned up from the index of {largest.n_docs:,} documents",
    )


def _model(found: Found) -> Figure:
    looked = found.looked
    if looked.system.kind == "hosted":
        return unknown("runs at its provider")
    files = looked.prepared.files if looked.prepared else None
    if files is None and looked.card is not None:
        try:
            files = model_files.locate(looked.card, verify=False)
        except DeploytoolError:
            return unknown("its files are not on this machine")
    if files is None or files.weights_bytes is None:
        return unknown(
            "an address without a model card" if looked.card is None else "its files were not read"
        )
    return Figure(value=files.weights_bytes / MIB)


def facts(found: Found) -> dict[str, Figure]:
    looked, system = found.looked, found.looked.system
    if system.kind == "baseline":
        package = PACKAGES[str(system.baseline)][0]
        return {
            "usd_per_1m_tokens": unknown("runs on any processor: no price is known"),
            "languages": Figure(value="words by spaces; Chinese with jieba"),
            "licence": _package_licence(package),
            "local": Figure(value=True),
        }
    licence = Figure(value=looked.card.licence) if looked.card else unknown("an address without a model card")
    return {
        "usd_per_1m_tokens": _price(found),
        "languages": _languages(found),
        "licence": licence,
        "local": _local(found),
    }


def _languages(found: Found) -> Figure:
    card = found.looked.card
    if card is None or card.languages is None:
        return unknown("an address without a model card" if card is None else "the model card does not say")
    return Figure(value=card.languages)


def _package_licence(package: str) -> Figure:
    about = importlib.metadata.metadata(package)
    stated = about.get_all("License-Expression")
    if stated:
        return Figure(value=str(stated[0]))
    classes = about.get_all("Classifier") or []
    names = [line.rsplit(" :: ", 1)[1] for line in classes if line.startswith("License :: ")]
    return Figure(value=names[0]) if names else unknown("the package does not say")


def _price(found: Found) -> Figure:
    card = found.looked.card
    if card is not None and card.api is not None:
        if card.api.usd_per_million_tokens is None:
            return unknown("its card has no price")
        return Figure(value=card.api.usd_per_million_tokens, reason=card.api.price_source)
    if found.capacity is None:
        return unknown("no capacity was measured" if found.load else no_load(found))
    plan = found.capacity.plan
    if plan.usd_per_1m_tokens is None:
        return unknown(plan.usd_reason or "no answer stated its tokens")
    return Figure(value=plan.usd_per_1m_tokens, reason=plan.price)


def _local(found: Found) -> Figure:
    system = found.looked.system
    if system.kind == "hosted":
        return Figure(value=False)
    if system.kind != "url":
        return Figure(value=True)
    if BaseUrl.parse(str(system.url)).loopback:
        return Figure(value=True, reason="an address of this machine")
    return unknown("an address: where it runs is not known")
