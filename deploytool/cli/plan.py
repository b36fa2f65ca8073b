"""`deploytool plan`: what would be started, whether it fits, and where every value is from."""

from __future__ import annotations

import os

from deploytool import preflight
from deploytool.catalog import Catalog
from deploytool.cli import plan_options as options
from deploytool.cli.plan_options import flags, needed_profile, show_misfit, show_plan
from deploytool.deployment.keys import given_key
from deploytool.planning import AUTO
from deploytool.planning.choices import cards_asked
from deploytool.plans import PlanDoesNotFit, prepare, resolve_alias

__all__ = ["flags", "plan", "show_misfit", "show_plan"]


def plan(
    model: options.Model,
    profile: options.Profile = None,
    engine: options.EngineName = AUTO,
    batch: options.Batch = None,
    seq_len: options.SeqLen = None,
    dtype: options.DtypeName = None,
    tp: options.TensorParallel = None,
    pooling: options.Pooling = None,
    host: options.Host = None,
    port: options.Port = None,
    assignments: options.Assignments = None,
    api_key_file: options.ApiKeyFile = None,
    profiles_dir: options.ProfilesDir = None,
    json: options.Json = False,
) -> None:
    """Show the exact command, the memory and every value's origin. Needs no GPU and starts nothing.

    Exit code 3: it does not fit (and what would); 4: the engine would give wrong vectors.
    """
    profile = needed_profile(profile, profiles_dir)
    catalog = Catalog(profiles_dir, ask_hub=True)
    given = flags(
        batch=batch,
        seq_len=seq_len,
        dtype=dtype,
        tp=tp,
        pooling=pooling,
        host=host,
        port=port,
        assignments=assignments,
    )
    hardware = resolve_alias(catalog.hardware(profile), catalog)
    live = preflight.live(hardware, count=cards_asked(given))
    try:
        with preflight.naming_holders(live):
            prepared = prepare(
                model,
                profile,
                engine=engine,
                flags=given,
                with_key=given_key(api_key_file, os.environ) is not None,
                catalog=catalog,
                free_mib=live.free_mib,
                gpus=len(live.gpus) or None,
                verify=False,
            )
    except PlanDoesNotFit as error:
        show_misfit(error, json=json)
        raise
    show_plan(prepared, json=json)
