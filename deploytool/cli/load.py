"""`load`: a batch x concurrency grid against a deployment or any OpenAI-compatible address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.cli.given import endpoint, terminate_as_interrupt
from deploytool.cli.load_given import numbers, rates, seconds_or_none, with_scenario
from deploytool.cli.load_hosts import hosts_given, serve, spread
from deploytool.cli.output import emit, note, say
from deploytool.errors import BadInput

if TYPE_CHECKING:
    from deploytool.loadgen.plan import Spread
    from deploytool.records import RunRecord
    from deploytool.store import Store
    from deploytool.targets import Resolved


def load(
    target: Annotated[str, typer.Argument(help="A deployment's name, or any base URL.")],
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="N,...", help="Texts in one request. [default: 1,8,32]")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option("--concurrency", metavar="N,...", help="Requests in flight. [default: 1,4,16]"),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            metavar="N,...",
            help="Open loop: requests due a second, whether or not others answered.",
        ),
    ] = None,
    arrivals: Annotated[
        str | None,
        typer.Option("--arrivals", metavar="poisson|constant", help="How they are due. [default: poisson]"),
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option("--in-flight", metavar="N", help="Open loop: most at once, more drop. [default: 256]"),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option("--duration", metavar="TIME", help="Measured for each cell: 20s, 1m30s. [default: 20s]"),
    ] = None,
    min_samples: Annotated[
        int | None,
        typer.Option("--min-samples", metavar="N", help="Measure on until so many succeeded (P99: 368)."),
    ] = None,
    max_duration: Annotated[
        str | None,
        typer.Option(
            "--max-duration", metavar="TIME", help="But no longer than this. [default: 10 x duration]"
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, max=100, help="Whole runs, for their spread.")
    ] = 1,
    scenario: Annotated[
        str | None,
        typer.Option(
            "--scenario", metavar="NAME", help="interactive-search, bulk-indexing, ...; or a YAML file."
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", help="Load processes. [default: 1]")
    ] = None,
    master: Annotated[
        str | None,
        typer.Option(
            "--master",
            metavar="HOST:PORT",
            help="Lead workers on other hosts, which connect to this address.",
        ),
    ] = None,
    expect_workers: Annotated[
        int | None,
        typer.Option("--expect-workers", metavar="N", min=1, max=256, help="How many it waits for."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers", metavar="HOST,...", help="Start the workers on these hosts, with --master."
        ),
    ] = None,
    worker_shell: Annotated[
        str | None,
        typer.Option(
            "--worker-shell",
            metavar="COMMAND",
            help='How. [default: "ssh -o BatchMode=yes {host} deploytool"]',
        ),
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option("--worker", metavar="HOST:PORT", help="Make load on TARGET for the master there."),
    ] = None,
    worker_name: Annotated[
        str | None, typer.Option("--worker-name", metavar="NAME", help="[default: this machine's name]")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="What master and workers share; - is stdin."),
    ] = None,
    no_calibration: Annotated[
        bool, typer.Option("--no-calibration", help="Skip the second at a null server before each cell.")
    ] = False,
    checks: Annotated[
        int | None,
        typer.Option("--checks", metavar="N", help="Answers of a cell looked into. [default: 8]"),
    ] = None,
    warmup: Annotated[
        str | None,
        typer.Option("--warmup", metavar="TIME", help="Load before it, not measured. [default: 3s]"),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus",
            metavar="PATH",
            help="Texts: .txt, one a line; .jsonl; a BEIR folder. [default: built in]",
        ),
    ] = None,
    text_tokens: Annotated[
        str | None,
        typer.Option(
            "--text-tokens",
            metavar="DIST",
            help="Tokens in a text: fixed:N, uniform:A-B, lognormal:MU,SIGMA, histogram:FILE.",
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", metavar="float|base64", help="How vectors travel. [default: float]"),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with the cells that a run lacks.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="The same seed sends the same texts. [default: 1]")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="For one whole answer. [default: 60s]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="The model, where the address serves several."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="The file that holds the endpoint's API key."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as one JSON document.")] = False,
) -> int:
    """Load an endpoint over a batch x concurrency grid, or (--rate) in open loop; keeps every request's time.

    Ctrl-C keeps the finished cells; --resume RUN goes on. Exit code 1 where a cell could not be measured.
    """
    given: dict[str, Any] = {
        "batch": numbers("--batch", batch),
        "concurrency": numbers("--concurrency", concurrency),
        "rate": rates(rate),
        "arrivals": arrivals,
        "in_flight": in_flight,
        "duration_s": seconds_or_none("--duration", duration),
        "min_samples": min_samples,
        "max_duration_s": seconds_or_none("--max-duration", max_duration),
        "processes": processes,
        "calibration": False if no_calibration else None,
        "checks": checks,
        "warmup_s": seconds_or_none("--warmup", warmup),
        "timeout_s": seconds_or_none("--timeout", timeout),
        "corpus": corpus,
        "text_tokens": text_tokens,
        "encoding": encoding,
        "seed": seed,
    }
    hosts = hosts_given(master, expect_workers, workers, worker_shell, worker, worker_name, token_file)
    if hosts.count:
        given["workers"] = hosts.count
    given = with_scenario({name: value for name, value in given.items() if value is not None}, scenario)
    if hosts.count and repeats > 1:
        raise BadInput(
            "--repeats is for one host", hint="run the command again; `compare` takes several runs"
        )
    if resume and repeats > 1:
        raise BadInput("--resume goes on with one run", hint="leave --repeats out")
    from deploytool.store import Store

    terminate_as_interrupt()
    with Store() as store:
        resolved = endpoint(target, store, model=model, api_key_file=api_key_file)
        if hosts.worker:
            return serve(hosts, resolved)
        with spread(hosts, target) as over:
            records = _measure(store, resolved, given, resume, repeats, over)
    record = records[-1]
    from deploytool.benchmark import exit_code

    _print(record, as_json)
    return max(map(exit_code, records))


def _measure(
    store: Store,
    target: Resolved,
    given: dict[str, Any],
    resume: str | None,
    repeats: int,
    over: Spread | None,
) -> list[RunRecord]:
    from deploytool.benchmark import LoadOptions, resume_options, run_load, run_series
    from deploytool.benchmark.options import options_from
    from deploytool.cli.load_view import view

    earlier = store.run(resume) if resume else None
    options: LoadOptions = resume_options(earlier, given) if earlier else options_from(given)
    with view(options) as progress:
        if repeats > 1:
            return run_series(target, options, store, progress, repeats)
        return [run_load(target, options, store, progress, resume=earlier, spread=over)]


def _print(record: RunRecord, as_json: bool) -> None:
    from deploytool.reports import table

    if as_json:
        emit(record.model_dump(mode="json"))
    else:
        say(table.render(record).rstrip("\n"))
    kept = "saved" if record.state == "finished" else f"{record.state}; what was measured is saved"
    again = "" if record.state == "finished" else f"; to go on: the same command with --resume {record.id}"
    void = [cell.name for cell in record.cells if cell.state == "done" and not cell.stands]
    if void and not again:
        again = f"; to repeat what is void ({', '.join(void)}): the same command with --resume {record.id}"
    note(f"run {record.id} {kept}{again}; next: deploytool report {record.id}")
