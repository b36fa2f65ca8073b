"""A small retrieval set of the project's own making, written as a BEIR folder; and faults to plant in it."""

from __future__ import annotations

import json
from pathlib import Path

# subject -> (what is said of it, a question about it)
NOTES = {
    "harbour": (
        "The harbour freezes every January, and an icebreaker opens a channel for the ferries.",
        "When does the harbour freeze?",
    ),
    "baker": (
        "The baker on Mill Street sells rye bread from five in the morning.",
        "Who sells rye bread early?",
    ),
    "violin": (
        "A violin's bow is strung with horsehair that must be replaced once a year.",
        "What is a violin bow strung with?",
    ),
    "beehive": (
        "Each beehive holds about fifty thousand bees and a single queen.",
        "How many bees live in a beehive?",
    ),
    "glacier": (
        "The glacier has lost forty metres of its length since measurements began.",
        "How much shorter is the glacier?",
    ),
    "compiler": (
        "The compiler removes code that can never be reached before it writes the binary.",
        "Which code does the compiler remove?",
    ),
    "bridge": (
        "The old bridge carries trams only, as its arches cannot bear lorries.",
        "Why may lorries not use the old bridge?",
    ),
    "library": (
        "The library lends seeds in spring and takes back the harvest's seeds in autumn.",
        "What does the library lend in spring?",
    ),
    "kiln": (
        "A kiln fires stoneware at twelve hundred degrees for nine hours.",
        "How hot is a kiln for stoneware?",
    ),
    "comet": (
        "The comet returns every seventy-six years and was woven into a tapestry.",
        "How often does the comet return?",
    ),
    "ferry": (
        "The night ferry carries post and newspapers to the outer islands.",
        "What does the night ferry carry?",
    ),
    "orchard": (
        "The orchard grows sixty kinds of pear, most of them forgotten elsewhere.",
        "How many kinds of pear grow in the orchard?",
    ),
}


def write_beir(folder: Path, *, languages: bool = False) -> Path:
    """corpus.jsonl, queries.jsonl and qrels/test.tsv: each question has its note as the one answer."""
    (folder / "qrels").mkdir(parents=True)
    corpus, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for place, (name, (note, question)) in enumerate(NOTES.items()):
        corpus.append(json.dumps({"_id": f"d-{name}", "title": "", "text": note}))
        row = {"_id": f"q-{name}", "text": question}
        if languages:
            row["language"] = "en" if place % 2 else "xx"
        queries.append(json.dumps(row))
        qrels.append(f"q-{name}\td-{name}\t1")
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n", encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder
