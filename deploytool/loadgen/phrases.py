"""The parts of the built-in texts: sentence patterns in nine languages, code in five programming languages.

Each language holds patterns and the words for their slots; `{n}` is a number.
"""

from __future__ import annotations

from typing import NamedTuple


class Language(NamedTuple):
    """Patterns with slots a, b, c and n, and the words for a, b and c."""

    patterns: tuple[str, ...]
    a: tuple[str, ...]
    b: tuple[str, ...]
    c: tuple[str, ...]


LANGUAGES: dict[str, Language] = {
    "en": Language(
        (
            "{a} {b} {c}.",
            "After {n} days {a} {b}, and nobody asked why.",
            "Is it true that {a} {b} {c}?",
            "The report of week {n} says that {a} {b} {c}, which is more than was planned.",
            "How do I make sure that {a} {b}?",
        ),
        ("the night train", "a new vaccine", "our billing service", "the river", "the second violinist",
         "an old lighthouse", "the city council", "a flock of geese"),
        ("stopped without warning", "needs fewer parts than before", "was repaired by volunteers",
         "changed its course", "costs twice as much", "attracts visitors", "can be seen from far away"),
        ("near the harbour", "in the first half of the year", "despite the heavy rain", "for the third time",
         "as the engineers had hoped", "according to the manual", "on both sides of the border"),
    ),
    "de": Language(
        ("{a} {b} {c}.", "Seit {n} Tagen gilt: {a} {b}.", "Warum {b} {a} {c}?"),
        ("die Straßenbahn", "das Rathaus", "ein Sachbearbeiter", "der Wärmespeicher", "der Imker"),
        ("prüft den Antrag", "bleibt bis Freitag geschlossen", "liefert mehr als nötig", "sucht Verstärkung"),
        ("trotz der Baustelle", "ohne Voranmeldung", "am Ende des Quartals", "mit großer Sorgfalt"),
    ),
    "fr": Language(
        ("{a} {b} {c}.", "D'après la page {n}, {a} {b}.", "Est-ce que {a} {b} {c} ?"),
        ("le marché couvert", "une éditrice", "la piscine municipale", "le satellite", "notre fournisseur"),
        ("ouvre ses portes", "corrige les épreuves", "envoie les premières images", "augmente ses tarifs"),
        ("dès le lever du jour", "sans attendre l'accord", "à l'automne prochain", "malgré la grève"),
    ),
    "es": Language(
        ("{a} {b} {c}.", "En {n} años {a} {b}.", "¿Cuándo {b} {a}?"),
        ("la biblioteca", "el volcán", "una enfermera", "el equipo local", "nuestra cooperativa"),
        ("recibe más visitas", "entra en actividad", "firma un convenio", "pierde el último partido"),
        ("durante la feria", "por motivos de seguridad", "con el apoyo de los vecinos", "antes del invierno"),
    ),
    "ru": Language(
        ("{a} {b} {c}.", "Через {n} дней {a} {b}.", "Почему {a} {b}?"),
        ("школьный музей", "новый мост", "редакция журнала", "метеостанция"),
        ("открывает выставку", "требует ремонта", "публикует письма", "сообщает о заморозках"),
        ("в начале весны", "по просьбе жителей", "несмотря на дождь", "впервые за долгое время"),
    ),
    "zh": Language(
        ("{a}{c}{b}。", "第{n}周，{a}{b}。", "为什么{a}{c}{b}？"),
        ("图书馆", "高速列车", "研究小组", "社区医院", "这款软件"),
        ("发布了新的数据", "延长了开放时间", "减少了能源消耗", "修复了一个严重的错误"),
        ("在上半年", "按照计划", "因为大雨", "第三次"),
    ),
    "ja": Language(
        ("{a}は{c}{b}。", "{n}日後、{a}は{b}。", "{a}はなぜ{b}のですか。"),
        ("市役所", "研究所", "古い灯台", "この検索サービス", "町の本屋"),
        ("新しい窓口を開いた", "結果を公開した", "営業を続けている", "電力の使用を減らした"),
        ("春から", "予定どおり", "台風のあとで", "住民の協力で"),
    ),
    "ar": Language(
        ("{a} {b} {c}.", "بعد {n} يوما {a} {b}.", "هل {a} {b} {c}؟"),
        ("المكتبة العامة", "القطار السريع", "فريق البحث", "السوق القديم"),
        ("يفتح أبوابه", "ينشر النتائج", "يحتاج إلى صيانة", "يستقبل الزوار"),
        ("في بداية الشهر", "رغم المطر", "للمرة الثالثة", "وفقا للخطة"),
    ),
    "hi": Language(
        ("{a} {c} {b}।", "{n} दिन बाद {a} {b}।", "क्या {a} {c} {b}?"),
        ("पुस्तकालय", "नई रेलगाड़ी", "अनुसंधान दल", "गाँव का बाज़ार"),
        ("फिर से खुल गया", "समय पर पहुँची", "परिणाम प्रकाशित करता है", "और बड़ा हो गया"),
        ("इस सप्ताह", "बारिश के बावजूद", "पहली बार", "योजना के अनुसार"),
    ),
}  # fmt: skip

CODE: tuple[str, ...] = (
    "def {x}_{y}(items, limit={n}):\n    kept = [i for i in items if i.{x} > limit]\n    return sorted(kept)",
    "class {X}{Y}:\n    def __init__(self, {x}):\n        self.{x} = {x}\n        self.seen = {n}",
    "SELECT {x}, COUNT(*) AS total FROM {y} WHERE {x} > {n} GROUP BY {x} ORDER BY total DESC;",
    "func {X}{Y}({x} []int) int {{\n\tif len({x}) < {n} {{\n\t\treturn 0\n\t}}\n\treturn {x}[0]\n}}",
    "const {x}{Y} = async ({y}) => {{\n  let found = get(`/{x}/${{{y}}}?page={n}`);\n  return found;\n}};",
    "fn {x}_{y}(input: &[u32]) -> Option<u32> {{\n    input.iter().copied().filter(|v| *v > {n}).max()\n}}",
    "for {x} in range({n}):\n    if {x} % 2:\n        {y}.append({x})",
)
NAMES: tuple[str, ...] = (
    "order", "invoice", "user", "token", "cache", "price", "node", "edge", "queue", "batch", "label", "route",
    "shard", "index", "account", "event",
)  # fmt: skip
