"""Reproduces published retrieval figures through a served endpoint: `make bench-quality BEIR=FOLDER`.

FOLDER holds BEIR sets named xquad-en-en, xquad-zh-zh, xquad-en-zh, xquad-zh-en (paragraphs and questions of
XQuAD, https://github.com/google-deepmind/xquad; the first language asks, the second answers). The server is
brought up and taken down by this tool. Exit code 1 where a figure is further from its anchor than TOLERANCE.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOLERANCE = 0.002
METRICS = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")
MINILM = "all-minilm-l6-v2"
# (system, set) -> the figures of METRICS. MiniLM on en-en and zh-zh: published for MTEB's XQuADRetrieval; the
# others were measured without this tool, with sentence-transformers (float32, 256 tokens) and bm25s.
ANCHORS: dict[tuple[str, str], tuple[float, ...]] = {
    (MINILM, "xquad-en-en"): (0.8852, 0.9814, 0.9899, 0.9281, 0.9436),
    (MINILM, "xquad-zh-zh"): (0.1406, 0.2828, 0.3734, 0.2021, 0.2422),
    (MINILM, "xquad-en-zh"): (0.1398, 0.3168, 0.4120, 0.2161, 0.2623),
    (MINILM, "xquad-zh-en"): (0.0432, 0.1067, 0.1702, 0.0720, 0.0946),
    ("bm25", "xquad-en-en"): (0.9301, 0.9865, 0.9924, 0.9555, 0.9647),
    ("bm25", "xquad-zh-zh"): (0.9263, 0.9873, 0.9932, 0.9527, 0.9628),
}


def tool(*arguments: str) -> dict[str, Any]:
    """The document that a command prints with --json; its messages go to stderr as they come."""
    command = [sys.executable, "-m", "deploytool", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def rows(folder: Path) -> list[tuple[str, str, str, float, float]]:
    """(system, set, metric, measured, published)."""
    found = []
    try:
        tool("up", MINILM, "--profile", "cpu", "--port", "auto", "--no-smoke", "--set", "backend=torch")
        for (system, name), anchors in ANCHORS.items():
            if not (folder / name).is_dir():
                print(f"{folder / name} is not there: left out", file=sys.stderr)
                continue
            document = tool("eval", system, "--dataset", str(folder / name))
            for metric, anchor in zip(METRICS, anchors, strict=True):
                found.append((system, name, metric, document["metrics"][metric]["value"], anchor))
    finally:
        subprocess.run([sys.executable, "-m", "deploytool", "down", MINILM], check=False)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the sets, each in BEIR's layout")
    folder = parser.parse_args().folder.resolve()
    if not any((folder / name).is_dir() for _, name in ANCHORS):
        print(f"{folder} holds none of the sets; nothing was measured", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="deploytool-quality-") as home:
        os.environ["DEPLOYTOOL_HOME"] = home
        found = rows(folder)
    print(f"{'system':18}{'set':14}{'metric':12}{'measured':>9}{'anchor':>11}{'difference':>12}")
    for system, name, metric, measured, anchor in found:
        mark = "" if abs(measured - anchor) <= TOLERANCE else "  TOO FAR"
        difference = measured - anchor
        print(f"{system:18}{name:14}{metric:12}{measured:9.4f}{anchor:11.4f}{difference:+12.4f}{mark}")
    far = sum(abs(measured - anchor) > TOLERANCE for *_, measured, anchor in found)
    print(f"{len(found) - far} of {len(found)} figures within {TOLERANCE}")
    return 1 if far or not found else 0


if __name__ == "__main__":
    sys.exit(main())
