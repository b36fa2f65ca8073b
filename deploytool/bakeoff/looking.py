"""Before anything starts: what each system is, what its figures depend on, and why this machine cannot run it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from deploytool import preflight
from deploytool.bakeoff.config import System
from deploytool.catalog import Catalog
from deploytool.deployment import refresh_one
from deploytool.errors import (
    BadInput,
    DeploytoolError,
    DoesNotFit,
    Incompatible,
    NotAvailable,
    Unhealthy,
    UnknownName,
    missing_extra,
)
from deploytool.evaluation.systems import Served, find_system
from deploytool.launching import on_cards, planned_here
from deploytool.models import ModelCard
from deploytool.plans import Prepared
from deploytool.retrieval.lexical import PACKAGES
from deploytool.store import Store

CANNOT_RUN = (NotAvailable, Incompatible, DoesNotFit)
# Backends of the SentenceTransformers server -> the modules that they need, and the extra that brings them.
BACKENDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "onnx": (("onnx", "onnxruntime"), "onnx"),
    "openvino": (("openvino",), "openvino"),
}


@dataclass(frozen=True)
class Looked:
    """One system as this machine sees it. `skip` or `failed`: why it is not measured."""

    system: System
    what: str
    depends_on: Mapping[str, Any] = field(default_factory=dict)
    card: ModelCard | None = None
    prepared: Prepared | None = None
    skip: str | None = None
    failed: str | None = None


def look(system: System, store: Store, catalog: Catalog, environ: Mapping[str, str]) -> Looked:
    """Never starts or asks anything. Raises BadInput for what only the user can mend, named by its system."""
    try:
        looker = {
            "model": _model,
            "deployment": _deployment,
            "url": _url,
            "hosted": _hosted,
            "baseline": _baseline,
        }[system.kind]
        return looker(system, store, catalog, environ)
    except CANNOT_RUN as error:
        return Looked(system, system.subject, skip=told(error))
    except Unhealthy as error:
        return Looked(system, system.subject, failed=told(error))
    except BadInput as error:
        raise BadInput(f"{system.name}: {error.message}", hint=error.hint, details=error.details) from error


def told(error: DeploytoolError) -> str:
    """An error in one line: message, what it consists of, what to do."""
    parts = [error.message, *(" ".join(line.split()) for line in error.details)]
    return "; ".join(part for part in (*parts, error.hint) if part)


def planned(system: System, catalog: Catalog, *, verify: bool) -> Prepared:
    """The plan of a system that is brought up, on this machine's own address and a free port."""
    given = {**system.settings, "host": "127.0.0.1", "port": "auto"}
    prepared = planned_here(
        str(system.model), str(system.profile), system.engine, given, catalog, verify=verify
    )
    _check_backend(prepared)
    preflight.check(prepared, profiles=catalog.hardware_profiles())
    return on_cards(prepared, None)


def _check_backend(prepared: Prepared) -> None:
    backend = next((value.value for value in prepared.plan.values if value.name == "backend"), None)
    modules, extra = BACKENDS.get(str(backend), ((), ""))
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing_extra(module, extra, f"backend={backend}")


def _model(system: System, store: Store, catalog: Catalog, environ: Mapping[str, str]) -> Looked:  # noqa: ARG001
    prepared = planned(system, catalog, verify=False)
    plan, launch = prepared.plan, prepared.plan.launch
    depends_on = {
        "launch": launch.model_dump(mode="json", exclude={"devices", "readiness", "port"}),
        "profile": plan.profile,
        "card": prepared.card.model_dump(mode="json"),
        "weights_bytes": prepared.files.weights_bytes if prepared.files else None,
    }
    backend = next((value.value for value in plan.values if value.name == "backend"), None)
    parts = [f"{plan.model} on {plan.engine}", backend, plan.dtype, f"profile {plan.profile}"]
    what = ", ".join(str(part) for part in parts if part)
    return Looked(system, what, depends_on, prepared.card, prepared)


def _deployment(system: System, store: Store, catalog: Catalog, environ: Mapping[str, str]) -> Looked:
    name = str(system.deployment)
    with suppress(UnknownName):
        refresh_one(name, store)
    found = served(system, name, store, catalog, environ)
    deployment = found.resolved.deployment
    if deployment is None:
        raise UnknownName("deployment", name, [one.name for one in store.deployments()])
    depends_on = {
        "id": deployment.id,
        "started": deployment.ready_at,
        "card": found.card.model_dump(mode="json") if found.card else None,
    }
    parts = [f"{deployment.model} on {deployment.engine}", deployment.dtype, f"profile {deployment.profile}"]
    return Looked(system, ", ".join(part for part in parts if part), depends_on, found.card)


def _url(system: System, store: Store, catalog: Catalog, environ: Mapping[str, str]) -> Looked:  # noqa: ARG001
    card = None
    if system.card is not None:
        with suppress(BadInput, NotAvailable):  # a name that only the server knows is fine
            card = catalog.model(system.card)
    depends_on = {
        "url": system.url,
        "model": system.card,
        "card": card.model_dump(mode="json") if card else None,
    }
    what = f"{system.card} at {system.url}" if system.card else str(system.url)
    return Looked(system, what, depends_on, card)


def _hosted(system: System, store: Store, catalog: Catalog, environ: Mapping[str, str]) -> Looked:
    name = str(system.hosted)
    card = catalog.model(name)
    try:
        found = served(system, name, store, catalog, environ)
    except BadInput as error:
        if card.api is not None and not environ.get(card.api.key_env) and system.api_key_file is None:
            return Looked(system, card.title, card=card, skip=told(error))
        raise
    return Looked(system, card.title, {"card": card.model_dump(mode="json")}, found.card)


def _baseline(
    system: System,
    store: Store,  # noqa: ARG001 - one signature for all kinds
    catalog: Catalog,  # noqa: ARG001
    environ: Mapping[str, str],  # noqa: ARG001
) -> Looked:
    method = str(system.baseline)
    package, module = PACKAGES[method]
    if importlib.util.find_spec(module) is None:
        raise missing_extra(package, "eval", method)
    version = importlib.metadata.version(package)
    return Looked(system, f"{method} by {package} {version}", {"method": method, "version": version})


def served(system: System, target: str, store: Store, catalog: Catalog, environ: Mapping[str, str]) -> Served:
    """The endpoint of a system, whether ours, running, a URL or hosted."""
    found = find_system(
        target,
        store,
        catalog,
        model=system.card,
        api_key_file=system.api_key_file,
        environ=environ,
    )
    if not isinstance(found, Served):
        raise BadInput(f"{target} is a word-matching baseline", hint="give it as baseline")
    return found
