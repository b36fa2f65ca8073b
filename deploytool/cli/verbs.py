"""Every verb by name, and the root's `--help` made of them: plain text, so that neither Typer nor a verb loads."""

from __future__ import annotations

import shutil
import textwrap
from typing import NamedTuple

ABOUT = "Bring embedding models up, prove their vectors, measure what they sustain, plan capacity."
OPTIONS = {
    "--version": "Print the version and exit.",
    "--install-completion": "Install completion for the current shell.",
    "--show-completion": "Show completion for the current shell, to copy or adapt.",
    "--help": "Show this message and exit.",
}
WIDEST = 100


class Verb(NamedTuple):
    """Where a verb lives: a function, or a Typer app of further verbs; and its line in `--help`."""

    module: str
    attribute: str
    help: str
    panel: str


COMMANDS: dict[str, Verb] = {
    "up": Verb("up", "up", "Bring a model up, prove that it works, leave it running.", "Serve"),
    "ps": Verb("deploy", "ps", "List deployments with their true state.", "Serve"),
    "status": Verb("deploy", "status", "Show one deployment in full.", "Serve"),
    "logs": Verb("deploy", "logs", "Print a deployment's log; -f follows it.", "Serve"),
    "stop": Verb("deploy", "stop", "Stop a deployment and keep its record.", "Serve"),
    "restart": Verb("deploy", "restart", "Stop a deployment and bring it up again as it was.", "Serve"),
    "down": Verb("deploy", "down", "Take deployments down and forget them.", "Serve"),
    "diff": Verb(
        "diff", "diff", "Show what differs between a deployment file and what is deployed.", "Serve"
    ),
    "export": Verb("export", "app", "Files for other machines: compose, kubernetes.", "Serve"),
    "scale": Verb("scale", "scale", "Change how many replicas an endpoint has while it serves.", "Serve"),
    "watch": Verb(
        "watch", "watch", "Keep deployments up: restart what died or hangs, with growing pauses.", "Serve"
    ),
    "service": Verb("watch", "app", "A service of this machine that keeps deployments up: install.", "Serve"),
    "image": Verb("image", "app", "Container images of this tool: build.", "Serve"),
    "plan": Verb(
        "plan", "plan", "Show the exact command, the memory and every value's origin. Needs no GPU.", "Plan"
    ),
    "schema": Verb(
        "schema",
        "schema",
        "Print the JSON Schema of a deployment file, a hardware profile or a model card, for editors.",
        "Plan",
    ),
    "fit": Verb("fit", "fit", "Show which models fit which cards, and how.", "Plan"),
    "calibrate": Verb(
        "calibrate", "calibrate", "Measure a model's memory on a card, for the next plans.", "Plan"
    ),
    "calibrations": Verb("calibrations", "app", "What was measured of memory: list, export, import.", "Plan"),
    "doctor": Verb(
        "doctor",
        "doctor",
        "Look this machine over: what is here, what is missing, and how to mend it.",
        "Plan",
    ),
    "profiles": Verb("profiles", "app", "Hardware profiles: list, show, validate, detect.", "Plan"),
    "models": Verb("models", "app", "Model cards: list, show, validate.", "Plan"),
    "smoke": Verb("smoke", "smoke", "Check that an endpoint's vectors and errors are right.", "Measure"),
    "verify": Verb(
        "verify", "verify", "Compare an endpoint's vectors with another's, or with golden ones.", "Measure"
    ),
    "golden": Verb("golden", "app", "Golden vectors: make, list.", "Measure"),
    "load": Verb("load", "load", "Load an endpoint over a batch x concurrency grid.", "Measure"),
    "eval": Verb("eval", "evaluate", "Measure retrieval quality on a data set, with intervals.", "Measure"),
    "bakeoff": Verb(
        "bakeoff",
        "bakeoff",
        "Compare systems side by side: quality, latency, capacity, memory, cost.",
        "Measure",
    ),
    "runs": Verb("runs", "app", "Load runs: list, show, export.", "Measure"),
    "report": Verb("report", "report", "Write a run as one HTML file that opens offline.", "Measure"),
    "compare": Verb(
        "compare",
        "compare",
        "Compare load runs of the same work: differences with intervals, beyond noise or not.",
        "Measure",
    ),
    "gate": Verb(
        "gate", "gate", "Check an endpoint before production: smoke, short load, comparison.", "Measure"
    ),
    "capacity": Verb(
        "capacity",
        "capacity",
        "Find the highest rate that holds an SLO, and plan replicas, cards and price for a target.",
        "Measure",
    ),
}


def help_text() -> str:
    """What `deploytool --help` prints: the options, and the verbs by what they are for."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    panels: dict[str, dict[str, str]] = {"Options": OPTIONS}
    for name, verb in COMMANDS.items():
        panels.setdefault(verb.panel, {})[name] = verb.help
    about = textwrap.fill(ABOUT, width, initial_indent="  ", subsequent_indent="  ")
    parts = [f"Usage: deploytool [OPTIONS] COMMAND [ARGS]...\n\n{about}"]
    return "\n\n".join([*parts, *(_panel(title, lines, width) for title, lines in panels.items())])


def _panel(title: str, lines: dict[str, str], width: int) -> str:
    """A heading, and below it names beside their explanations."""
    column = max(map(len, lines)) + 4
    rows = [
        textwrap.fill(text, max(width, column + 20), initial_indent=f"  {name:{column - 2}}",
                      subsequent_indent=" " * column)
        for name, text in lines.items()
    ]  # fmt: skip
    return "\n".join([f"{title}:", *rows])
