"""`up -f`: every deployment of a file, one after the other; one that fails does not keep the others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from deploytool import deployment as deployments
from deploytool.catalog import Catalog
from deploytool.cli.deploy_view import Narrator
from deploytool.cli.output import emit, note, say
from deploytool.cli.plan_options import show_plan
from deploytool.cli.up_container import containing
from deploytool.cli.up_one import Wish, plan, start
from deploytool.cli.up_results import Did, Result, bring_back, show, tell
from deploytool.deployment import UpOptions, given_key
from deploytool.deployment_file import AUTO, Wanted
from deploytool.errors import BadInput, DeploytoolError, Interrupted, Taken, Unhealthy
from deploytool.from_file.differences import Compared, compare
from deploytool.from_file.known import read
from deploytool.hardware import Scalar
from deploytool.records import Deployment
from deploytool.settings import environment_settings
from deploytool.store import Store


class Flags(NamedTuple):
    """What the command line says beside the file: it beats every deployment of the file."""

    settings: Mapping[str, Scalar]
    profile: str | None
    engine: str
    runtime: str | None
    gpus: tuple[int, ...] | None
    image: str | None
    memory_limit_mib: int | None
    api_key_file: Path | None
    wait_s: float | None
    smoke: bool
    keep_failed: bool
    replicas: int | None
    look: bool
    pull: bool
    offline: bool
    replace: bool
    profiles_dir: Path | None
    json: bool


def up_file(path: Path, flags: Flags, *, dry_run: bool) -> int:
    """Bring the file's deployments up; the exit code of the first that failed, 0 where none did."""
    catalog = Catalog(flags.profiles_dir, ask_hub=True)
    file = read(path, catalog)
    if len(file.deployments) > 1 and str(flags.settings.get("port", AUTO)) != AUTO:
        raise BadInput(
            f"--port is for one deployment, and {path} holds {len(file.deployments)}",
            hint="give each its port in the file, or take --port auto",
        )
    if dry_run:
        return _plans(path, file.deployments, flags, catalog)
    with Store() as store:
        results = []
        found = compare(file, path, deployments.refresh(store), catalog)
        for compared in found:
            wanted = file.named(compared.name)
            if wanted is None:
                note(f"{compared.name}: came from {path}, which does not name it any more; it stays up")
                note(f"hint: deploytool down {compared.name}")
                continue
            results.append(_tried(wanted, compared, path, flags, catalog, store))
    if flags.json:
        emit([result.document() for result in results])
    else:
        show(results)
    return next((result.error.exit_code for result in results if result.error), 0)


def _plans(path: Path, wanted: tuple[Wanted, ...], flags: Flags, catalog: Catalog) -> int:
    """`--dry-run`: every plan; the exit code of the first that cannot be made."""
    code, documents = 0, []
    for one in wanted:
        try:
            wish = _wish(one, path, flags)
            prepared = plan(wish, catalog, dry_run=True, json=flags.json)
        except DeploytoolError as error:
            code = code or error.exit_code
            documents.append({"name": one.name, **error.document()})
            tell(one.name, error)
            continue
        documents.append({"name": one.name, **prepared.plan.document()})
        if not flags.json:
            say(f"# {one.name}")
            show_plan(prepared, json=False)
            wish.how.show(prepared, json=False)
            say()
    if flags.json:
        emit(documents)
    return code


def _wish(wanted: Wanted, path: Path, flags: Flags) -> Wish:
    """Flag before variable before file, also for what is no setting of an engine."""
    variable = str(environment_settings(os.environ).get("engine", AUTO))
    engine = next((name for name in (flags.engine, variable) if name != AUTO), wanted.engine)
    key = given_key(flags.api_key_file, os.environ) or given_key(wanted.api_key_file, {})
    runtime = flags.runtime or wanted.runtime
    contained = runtime == wanted.runtime
    return Wish(
        model=wanted.model,
        profile=flags.profile or wanted.profile,
        engine=engine,
        flags=flags.settings,
        from_file=wanted.settings(),
        gpus=flags.gpus or wanted.gpu or None,
        key=key,
        how=containing(
            runtime,
            image=flags.image or (wanted.image if contained else None),
            pull=flags.pull and runtime != "process",
            offline=flags.offline,
            memory_limit_mib=flags.memory_limit_mib or (wanted.memory_limit_mib if contained else None),
        ),
        options=UpOptions(
            name=wanted.name,
            runtime=runtime,
            wait_s=flags.wait_s or wanted.wait_s,
            smoke=flags.smoke and wanted.smoke,
            keep_failed=flags.keep_failed,
            replicas=flags.replicas or wanted.replicas,
            profiles_dir=flags.profiles_dir,
            from_file=path,
            slo=wanted.slo,
        ),
        look=flags.look,
    )


def _tried(
    wanted: Wanted, compared: Compared, path: Path, flags: Flags, catalog: Catalog, store: Store
) -> Result:
    """What there is to do for one deployment, done; its error told and kept. An interrupt ends it all."""
    try:
        return _done(wanted, compared, path, flags, catalog, store)
    except Interrupted:
        raise
    except DeploytoolError as error:
        tell(wanted.name, error)
        left = compared.needs_restart and not flags.replace
        return Result(wanted.name, "changed" if left else "failed", error=error)


def _done(
    wanted: Wanted, compared: Compared, path: Path, flags: Flags, catalog: Catalog, store: Store
) -> Result:
    narrator = Narrator()
    if compared.status == "new":
        wish = _wish(wanted, path, flags)
        prepared = plan(wish, catalog, dry_run=False, json=flags.json)
        return Result(wanted.name, "up", start(wish, prepared, catalog, store, narrator))
    if compared.needs_restart or (compared.state == "unhealthy" and flags.replace):
        return _replaced(wanted, compared, path, flags, catalog, store)
    if compared.needs_scaling and compared.state == "ready":
        deployments.scale(
            wanted.name, wanted.replicas, store, narrator.line, wait_s=flags.wait_s or wanted.wait_s
        )
        narrator.clear()
        return Result(wanted.name, "scaled", _noted(wanted, path, store))
    if compared.state in ("stopped", "died"):
        again = deployments.restart(
            wanted.name, store, narrator.line, wait_s=flags.wait_s or wanted.wait_s,
            smoke=flags.smoke and wanted.smoke, tick=narrator.tick,
        )  # fmt: skip
        narrator.clear()
        return Result(wanted.name, "restarted", again)
    if compared.state == "unhealthy":
        raise Unhealthy(
            f"{wanted.name} is deployed as asked, and unhealthy: {compared.reason}",
            hint=f"deploytool status {wanted.name}; --replace starts it anew",
        )
    did: Did = "noted" if compared.differences else "as asked"
    return Result(wanted.name, did, _noted(wanted, path, store))


def _noted(wanted: Wanted, path: Path, store: Store) -> Deployment:
    """The record with what is only noted of a deployment: its file and its SLO."""
    origin = str(path.expanduser().absolute())
    found = store.deployment(wanted.name)
    if (found.from_file, found.slo) == (origin, wanted.slo):
        return found

    def change(record: Deployment) -> None:
        record.from_file, record.slo = origin, wanted.slo

    return store.change(found.id, change) or found


def _replaced(
    wanted: Wanted, compared: Compared, path: Path, flags: Flags, catalog: Catalog, store: Store
) -> Result:
    """The old one down and the new one up; where that fails, the old one is brought back.

    Its plan is made first: one that cannot be made leaves the old one as it is.
    """
    if not flags.replace:
        raise Taken(
            f"{wanted.name} is deployed otherwise than asked; it was left as it is",
            hint="--replace takes it down and starts it as asked",
            details=list(map(str, compared.differences)),
        )
    wish = _wish(wanted, path, flags)
    plan(wish._replace(look=False), catalog, dry_run=False, json=flags.json)
    before, replicas = store.deployment(wanted.name), deployments.replicas_of(wanted.name, store)
    for line in compared.differences:
        note(f"{wanted.name}: {line}")
    deployments.down([wanted.name], store, note)
    try:
        prepared = plan(wish, catalog, dry_run=False, json=flags.json)
        return Result(wanted.name, "replaced", start(wish, prepared, catalog, store, Narrator()))
    except DeploytoolError as error:
        if not flags.keep_failed and not isinstance(error, Interrupted):
            bring_back(before, replicas, store, error)
        raise
