"""`calibrate`: measure a model's memory on a card, so that the next plans are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import plan_options as options
from deploytool.cli.output import emit, note, say
from deploytool.planning import AUTO

if TYPE_CHECKING:
    from deploytool.calibrating import Calibrated
    from deploytool.memory import MemoryEstimate


def calibrate(
    model: options.Model,
    profile: options.Profile = None,
    engine: options.EngineName = AUTO,
    batch: options.Batch = None,
    seq_len: options.SeqLen = None,
    dtype: options.DtypeName = None,
    tp: options.TensorParallel = None,
    pooling: options.Pooling = None,
    assignments: options.Assignments = None,
    duration: Annotated[
        float, typer.Option("--duration", metavar="SECONDS", min=0.5, max=600, help="Of the load.")
    ] = 10.0,
    wait: Annotated[
        float | None, typer.Option("--wait", metavar="SECONDS", min=1, help="Until it must be ready.")
    ] = None,
    profiles_dir: options.ProfilesDir = None,
    json: options.Json = False,
) -> None:
    """Measure a model's memory on a card, for the next plans: up, a short load, down.

    Every `up` and `load` is measured, too; this one fills the largest forward pass that is planned. Kept by
    model, engine, version, dtype and card; `deploytool calibrations` lists, exports and imports.
    """
    from deploytool import preflight
    from deploytool.calibrating import calibrate as measure
    from deploytool.catalog import Catalog
    from deploytool.cli.load_view import PlainView
    from deploytool.planning.choices import cards_asked
    from deploytool.plans import prepare, resolve_alias
    from deploytool.store import Store

    profile = options.needed_profile(profile, profiles_dir)
    catalog = Catalog(profiles_dir, ask_hub=True)
    given = options.flags(
        batch=batch,
        seq_len=seq_len,
        dtype=dtype,
        tp=tp,
        pooling=pooling,
        port="auto",
        assignments=assignments,
    )
    hardware = resolve_alias(catalog.hardware(profile), catalog)
    live = preflight.live(hardware, count=cards_asked(given))
    prepared = prepare(
        model,
        profile,
        engine=engine,
        flags=given,
        catalog=catalog,
        free_mib=live.free_mib,
        gpus=len(live.gpus) or None,
    )
    for warning in prepared.plan.warnings:
        note(f"warning: {warning}")
    if hardware.kind != "cpu":
        for warning in preflight.check(prepared, profiles=catalog.hardware_profiles()):
            note(f"warning: {warning}")
        devices = preflight.choose(hardware, prepared.plan.cards) or prepared.plan.launch.devices
        launch = prepared.plan.launch.model_copy(update={"devices": devices})
        prepared = prepared._replace(plan=prepared.plan.model_copy(update={"launch": launch}))
    with Store() as store:
        found = measure(prepared, store, note, PlainView, duration_s=duration, wait_s=wait)
    if json:
        emit({"measured": found.entry.model_dump(mode="json"), "run": found.run.id})
        return
    _show(found, prepared.plan.memory)


def _show(found: Calibrated, planned: MemoryEstimate) -> None:
    entry = found.entry
    say(f"{entry.model} with {entry.engine} {entry.engine_version} ({entry.dtype}) on {entry.card}")
    say(f"  at rest    {entry.loaded_mib:>9,.0f} MiB measured, {entry.rest_mib:,.0f} by formula")
    peak = entry.peak_mib or entry.loaded_mib
    say(f"  under load {peak:>9,.0f} MiB measured, {entry.rest_mib + entry.work_mib:,.0f} by formula")
    say(f"  planned    {planned.expected_mib:>9,.0f} MiB ({(planned.expected_mib / peak - 1) * 100:+.0f} %)")
    if not entry.full:
        note("warning: the load filled no forward pass: what it adds may only raise the next estimate")
    if entry.figure == "card":
        note("note: NVML told of no process of the server: it is what the whole card held more than before")
