"""`capacity`: the highest rate that holds an SLO, and the plan that follows from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.cli.files import STDOUT, check_output, write_output
from deploytool.cli.given import endpoint, seconds, share, terminate_as_interrupt
from deploytool.cli.output import emit, note, say
from deploytool.errors import BadInput, NotAvailable, Unhealthy

if TYPE_CHECKING:
    from deploytool.capacity import CapacityOptions
    from deploytool.hardware import HardwareProfile
    from deploytool.loadgen.plan import Live
    from deploytool.records import Cell, RunRecord
    from deploytool.sizing import Capacity, Probe
    from deploytool.targets import Resolved


def capacity(
    target: Annotated[str, typer.Argument(help="A deployment's name, or any base URL.")],
    slo: Annotated[
        str | None,
        typer.Option(
            "--slo",
            metavar="CONDITIONS",
            help='What must hold: "p99<=150ms,errors<=0.1%". [default: the deployment file\'s]',
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Texts in one request.")] = 1,
    target_qps: Annotated[
        float | None,
        typer.Option("--target-qps", metavar="N", help="Requests a second that the plan is for."),
    ] = None,
    growth: Annotated[
        str, typer.Option("--growth", metavar="PERCENT", help="How much the target will grow: 30%.")
    ] = "0%",
    headroom: Annotated[
        str,
        typer.Option("--headroom", metavar="PERCENT", help="Share of a replica's rate to leave free."),
    ] = "20%",
    max_duration: Annotated[
        str, typer.Option("--max-duration", metavar="TIME", help="The search ends by then: 10m.")
    ] = "10m",
    max_qps: Annotated[
        float | None, typer.Option("--max-qps", metavar="N", help="Try no higher rate than this.")
    ] = None,
    start_qps: Annotated[
        float | None,
        typer.Option("--start-qps", metavar="N", help="Begin here. [default: half of what one client gets]"),
    ] = None,
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="PERCENT", help="How near the rates that hold and break end."),
    ] = "4%",
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="The hardware behind a URL, for memory and price."),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", metavar="FILE", help="Texts, as for load. [default: built in]"),
    ] = None,
    text_tokens: Annotated[
        str | None, typer.Option("--text-tokens", metavar="DIST", help="Tokens in a text, as for load.")
    ] = None,
    encoding: Annotated[
        str, typer.Option("--encoding", metavar="float|base64", help="How vectors travel.")
    ] = "float",
    seed: Annotated[
        int, typer.Option("--seed", help="The same seed sends the same texts at the same times.")
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="The model, where the address serves several."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="The file that holds the endpoint's API key."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the plan: .md or .html."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Find the highest rate that holds an SLO, and plan replicas, cards and price for a target.

    Open loop, Poisson arrivals, latency from when a request is due. Doubles the rate until the SLO breaks,
    bisects, confirms; "at least" where that did not converge in time. Exit code 1 where no rate holds.
    """
    given = {
        "slo": slo if slo is not None else _recorded_slo(target),
        "batch": batch,
        "target_qps": target_qps,
        "growth": share("--growth", growth),
        "headroom": share("--headroom", headroom),
        "max_duration_s": seconds("--max-duration", max_duration),
        "most_qps": max_qps,
        "start_qps": start_qps,
        "precision": share("--precision", precision),
        "encoding": encoding,
        "corpus": corpus,
        "text_tokens": text_tokens,
        "seed": seed,
    }
    options = _options(given)
    check_output(output)
    if output is not None and output != STDOUT and output.suffix not in (".md", ".html"):
        raise BadInput(f"no plan is written as {output.name!r}", hint="-o plan.md or -o plan.html")
    found = _measured(target, options, profile, model, api_key_file)
    if output is not None:
        write_output(output, _written(found, output))
    if as_json:
        emit(found.document())
    elif output != STDOUT:
        from deploytool.reports import capacity as report

        say(report.render(found).rstrip("\n"))
    return _verdict(found, output)


def _recorded_slo(target: str) -> str:
    """What the deployment file of TARGET says that it is to hold; BadInput where nothing does."""
    from deploytool.store import Store

    with Store() as store:
        found = next((one.slo for one in store.deployments() if one.name == target), None)
    if found is None:
        raise BadInput(
            "--slo is missing, and no deployment file gives one for this target",
            hint='for example --slo "p99<=150ms,errors<=0.1%"',
        )
    note(f"SLO of the deployment file: {found}")
    return found


def _options(given: dict[str, Any]) -> CapacityOptions:
    from pydantic import ValidationError

    from deploytool.capacity import CapacityOptions

    try:
        options = CapacityOptions.model_validate(given)
    except ValidationError as error:
        problems = [
            f"{problem['loc'][0]}: {problem['msg']} (given: {problem['input']!r})"
            for problem in error.errors()
        ]
        raise BadInput(
            "the capacity cannot be looked for as asked",
            details=problems,
            hint="see `deploytool capacity --help`",
        ) from error
    _ = options.conditions  # a slip in the SLO is told before anything is measured
    return options


def _measured(
    target: str, options: CapacityOptions, profile: str | None, model: str | None, key: Path | None
) -> Capacity:
    from deploytool.capacity import find
    from deploytool.store import Store

    terminate_as_interrupt()
    with Store() as store:
        resolved = endpoint(target, store, model=model, api_key_file=key)
        card, cards = _hardware(resolved, profile)
        shown = Progress()
        return find(resolved, options, store, shown, card=card, cards=cards, told=shown.told)


class Progress:
    """A line a probe on stderr; on a terminal the running one is written over."""

    def __init__(self) -> None:
        self.live_line = sys.stderr.isatty()
        self.name = ""

    def note(self, line: str) -> None:
        self._wipe()
        note(line)

    def begins(self, record: RunRecord, cells: int) -> None:  # noqa: ARG002 - as the protocol has it
        self.note(f"run {record.id}: looking for the highest rate on {record.target.url}")

    def cell(self, number: int, name: str) -> None:
        self.name = f"probe {number} {name}"

    def live(self, live: Live) -> None:
        if self.live_line:
            self._wipe()
            sys.stderr.write(f"{self.name}: {live.phase}, {live.requests:,} requests, {live.errors:,} errors")
            sys.stderr.flush()

    def done(self, cell: Cell) -> None:
        """The verdict on it follows."""

    def told(self, probe: Probe) -> None:
        self.note(f"{probe.step} {probe.rate:g}/s: {probe.ruling}; {probe.why}")

    def _wipe(self) -> None:
        if self.live_line:
            sys.stderr.write("\r\x1b[K")


def _hardware(resolved: Resolved, name: str | None) -> tuple[HardwareProfile | None, int | None]:
    """The profile of a replica and its cards: of our deployment, or as the user says."""
    from deploytool.catalog import Catalog

    deployment = resolved.deployment
    devices = deployment.launch.devices if deployment is not None else None
    cards = len(devices) if devices else 1
    wanted = name or (deployment.profile if deployment is not None else None)
    if wanted is None:
        return None, None
    try:
        card = Catalog().hardware(wanted)
    except (BadInput, NotAvailable):
        if name is not None:
            raise
        note(f"note: the profile {wanted} is not there any more: the plan has no price")
        return None, cards
    return card, cards if card.kind == "gpu" else None


def _written(found: Capacity, output: Path) -> str:
    from deploytool.reports import capacity as report

    return report.html(found) if output.suffix == ".html" else report.markdown(found)


def _verdict(found: Capacity, output: Path | None) -> int:
    where = f"; wrote {output}" if output is not None and output != STDOUT else ""
    note(f"run {found.run} holds the probes{where}")
    if found.found.reason == "interrupted":
        return 130
    if found.found.gone:
        note(f"error: {found.found.reason}")
        return Unhealthy.exit_code
    if found.found.max_qps > 0:
        return 0
    note(f"error: the SLO {', '.join(found.slo)} was shown to hold at no rate: {found.found.reason}")
    note("hint: a looser SLO, a smaller --batch, a faster card, or a longer --max-duration")
    return 1
