"""The texts that the checks send: short, harmless, made for this purpose, in several languages and code."""

from __future__ import annotations

from typing import Literal, NamedTuple

# Different in subject, language and length, so that a mixed-up or padded vector is seen.
MIXED: tuple[str, ...] = (
    "Salt.",
    "The harbour freezes in January, and the ferries wait for the icebreaker to open a channel.",
    "def mean(values):\n    return sum(values) / len(values)",
    "Die Werkstatt repariert Fahrräder und verleiht im Sommer auch Anhänger.",
    "咖啡豆在烘焙之后香味会慢慢变化。",
    "Invoices are due within thirty days; a reminder is sent once and after that the account is closed.",
    "SELECT city, COUNT(*) FROM visits GROUP BY city;",
    "Why do cats purr?",
)

_SUBJECTS = (
    "The glacier",
    "A violinist",
    "This compiler",
    "Our neighbour",
    "The old bridge",
    "Every beekeeper",
)
_DEEDS = (
    "waits",
    "changes colour when the weather turns",
    "was described at length in a letter that nobody answered for eleven years",
)


def thirty_two() -> list[str]:
    """Thirty-two different texts of very different lengths, short and long side by side."""
    made = [f"{subject} {deed}." for deed in _DEEDS for subject in _SUBJECTS]
    return [*MIXED, *made, *(f"{text} {made[-1 - place]}" for place, text in enumerate(made[:6]))]


class Topic(NamedTuple):
    """Two texts that say the same in other words or in another order."""

    one: str
    other: str


class Language(NamedTuple):
    """Two topics of one language: the texts of a topic must be closer than those across.

    Texts are compared within their language only, and a topic's texts share words: a model that does not
    speak the language passes too, unless its vectors do not hang on the text.
    """

    name: str
    first: Topic
    second: Topic


LANGUAGES: tuple[Language, ...] = (
    Language(
        "English",
        Topic("The cat is sleeping on the warm sofa.", "A cat sleeps on the sofa because it is warm."),
        Topic(
            "The central bank raised interest rates again.",
            "Interest rates were raised again by the central bank.",
        ),
    ),
    Language(
        "German",
        Topic("Der Zug nach Berlin hat heute Verspätung.", "Heute ist der Zug nach Berlin verspätet."),
        Topic("Die Suppe schmeckt besser mit etwas Salz.", "Mit etwas Salz schmeckt die Suppe besser."),
    ),
    Language(
        "French",
        Topic(
            "Le médecin recommande de boire beaucoup d'eau.",
            "Boire beaucoup d'eau est recommandé par le médecin.",
        ),
        Topic("Le musée ouvre ses portes à neuf heures.", "À neuf heures, le musée ouvre ses portes."),
    ),
    Language(
        "Spanish",
        Topic("El equipo ganó el partido de fútbol ayer.", "Ayer el equipo ganó su partido de fútbol."),
        Topic("La receta lleva harina, huevos y azúcar.", "Harina, huevos y azúcar: eso lleva la receta."),
    ),
    Language(
        "Chinese",
        Topic("今天北京的天气很好，阳光明媚。", "北京今天阳光明媚，天气很好。"),
        Topic("这家公司去年的利润增长了一倍。", "去年，这家公司的利润增长了一倍。"),
    ),
    Language(
        "Japanese",
        Topic("明日は京都で友達と寿司を食べます。", "友達と明日、京都で寿司を食べます。"),
        Topic("この本は歴史の先生が書きました。", "歴史の先生がこの本を書きました。"),
    ),
    Language(
        "Russian",
        Topic("Собака громко лаяла всю ночь.", "Всю ночь громко лаяла собака."),
        Topic("Новый мост через реку открыли весной.", "Весной открыли новый мост через реку."),
    ),
    Language(
        "Arabic",
        Topic("يذهب الأطفال إلى المدرسة كل صباح.", "كل صباح يذهب الأطفال إلى المدرسة."),
        Topic("ارتفع سعر النفط في السوق العالمية.", "في السوق العالمية ارتفع سعر النفط."),
    ),
    Language(
        "Python",
        Topic(
            "def area(width, height):\n    return width * height",
            "def rectangle_area(w, h):\n    area = w * h\n    return area",
        ),
        Topic(
            "with open(path) as file:\n    lines = file.read().splitlines()",
            "lines = []\nwith open(path) as file:\n    for line in file:\n        lines.append(line)",
        ),
    ),
    Language(
        "JavaScript and SQL",
        Topic(
            "function sum(numbers) {\n  return numbers.reduce((a, b) => a + b, 0);\n}",
            "const sum = (numbers) => {\n  let total = 0;\n  for (const n of numbers) total += n;\n"
            "  return total;\n};",
        ),
        Topic(
            "SELECT name FROM users WHERE age > 18 ORDER BY name;",
            "SELECT users.name FROM users WHERE users.age >= 19 ORDER BY users.name ASC;",
        ),
    ),
)


class Probe(NamedTuple):
    """One text of the golden set. `kind` says which of a model's prompts stands before it.

    Wrong vectors (another pooling, a missing prompt) are kept for the `witness` texts, and cut ones for the
    long ones, so that a golden file stays small.
    """

    name: str
    kind: Literal["query", "document"]
    text: str
    witness: bool = False


# Sentences of about 20 tokens each: long texts are made of them, so that a cut-off end is seen.
_LONG = (
    "The archive keeps its oldest maps in flat drawers of camphor wood, one for each river.",
    "A clerk copies every new survey by hand, although a scanner has stood unused beside the stairs for"
    " years.",
    "Whoever asks for a sheet signs a slip, waits at the long table, and is brought gloves of thin cotton.",
    "In spring the reading room smells of floor wax, and the tall windows are opened before noon.",
    "Nobody may bring ink, but pencils are lent out, sharpened, from a tin that once held peppermints.",
    "The valley on sheet forty was flooded by the dam, so its villages exist only in blue hatching.",
    "Two brothers came last week to find the mill of their grandfather and left with a tracing of its wheel.",
    "When a drawer sticks, the caretaker rubs its runners with a candle end and says that wood remembers"
    " rain.",
    "The catalogue has a card for every place name, and a second card for each name that it had before.",
    "At closing time a bell is rung twice, the lamps go out from the back, and the cat is let in.",
)


def long_text(sentences: int) -> str:
    """A running text of numbered sentences, none of them twice the same."""
    return " ".join(f"{place + 1}. {_LONG[place % len(_LONG)]}" for place in range(sentences))


GOLDEN_SET = 1  # the version of the texts below: a change of any of them is a new version

GOLDEN: tuple[Probe, ...] = (
    Probe("word", "document", MIXED[0]),
    Probe("sentence", "document", MIXED[1], witness=True),
    Probe("question", "query", MIXED[7], witness=True),
    Probe("letter", "document", MIXED[5]),
    Probe("english", "query", LANGUAGES[0].first.one),
    Probe("german", "document", LANGUAGES[1].second.one, witness=True),
    Probe("french", "query", LANGUAGES[2].first.one),
    Probe("spanish", "document", LANGUAGES[3].second.one),
    Probe("chinese", "document", LANGUAGES[4].second.one),
    Probe("chinese-query", "query", LANGUAGES[4].first.one),
    Probe("japanese", "document", LANGUAGES[5].first.one),
    Probe("russian", "document", LANGUAGES[6].first.one),
    Probe("arabic", "query", LANGUAGES[7].second.one),
    Probe("python", "document", LANGUAGES[8].second.other, witness=True),
    Probe("javascript", "document", LANGUAGES[9].first.other),
    Probe("sql", "query", MIXED[6]),
    Probe("long", "document", long_text(8)),
    Probe("longer", "document", long_text(20)),
    Probe("longest", "document", long_text(44)),
)
