"""Texts that two models are asked to agree on: prose, code, digits, several scripts, chats.

Purpose: what a fused or quantized model is compared on when nothing else is known of its use.
In -> out: nothing goes in; named texts and chats come out, some dozen tokens each.
Not done here: no tokenising. Each text is written for this file; changing one changes the figures
of every later proof.
"""

from __future__ import annotations

TEXTS: dict[str, str] = {
    "prose": (
        "The ferry left the harbour before dawn. Two fishermen stood at the rail and spoke about "
        "the weather, which had turned in the night, and about the price of diesel, which had not. "
        "When the first island rose out of the haze they fell silent and looked for the light."
    ),
    "facts": (
        "Water boils at a lower temperature on a mountain than at the sea, because the pressure of "
        "the air above it is smaller. That is why rice takes longer to cook in a high valley."
    ),
    "code": (
        "def moving_average(values: list[float], width: int) -> list[float]:\n"
        '    """Means of `width` neighbours."""\n'
        "    if width < 1:\n"
        '        raise ValueError(f"width must be positive, not {width}")\n'
        "    sums = [sum(values[i : i + width]) for i in range(len(values) - width + 1)]\n"
        "    return [total / width for total in sums]\n"
    ),
    "markup": (
        '{"order": 1187, "lines": [{"sku": "B-204", "count": 3}, {"sku": "K-9", "count": 12}], '
        '"paid": true, "note": null}\n<p class="total">3 &times; 19.90 = 59.70</p>\n'
    ),
    "digits": (
        "17 + 25 = 42\n108 - 39 = 69\n12 * 12 = 144\n2026-11-05 07:45\n3.14159 26535 89793\n"
        "1, 1, 2, 3, 5, 8, 13, 21, 34,"
    ),
    "german": (
        "Der Zug nach München fährt heute von Gleis 7 ab; die Reisenden werden gebeten, auf die "
        "Anzeigen am Bahnsteig zu achten."
    ),
    "spanish": "Mañana por la tarde lloverá en la costa, pero el sábado volverá a salir el sol.",
    "russian": "Зимой река замерзает, и дети катаются на коньках от моста до старой мельницы.",
    "greek": "Το καλοκαίρι τα σπίτια στο νησί μένουν ανοιχτά.",  # noqa: RUF001 - it is Greek
    "arabic": "يفتح السوق في الصباح الباكر ويشتري الناس الخبز والزيتون والشاي.",
    "hindi": "बारिश के बाद गाँव की सड़क पर बच्चे नाव बनाकर पानी में छोड़ते हैं।",
    "chinese": "图书馆每天早上九点开门，周末下午五点关门。",  # noqa: RUF001 - it is Chinese
    "japanese": "駅前の小さな店では、毎朝焼きたてのパンを売っています。",
    "signs": "∑ᵢ xᵢ² ≤ 1 → ‖x‖ ≤ 1 ✓  €12.50 · 30 °C · naïve café 🙂👍🏽\t|\t— end",
}
"""Name -> plain text."""

CHATS: dict[str, list[dict[str, str]]] = {
    "question": [{"role": "user", "content": "Which is heavier, a litre of oil or one of water?"}],
    "turns": [
        {"role": "user", "content": "Name three rivers in Europe."},
        {"role": "assistant", "content": "The Danube, the Rhine and the Loire."},
        {"role": "user", "content": "Which of them is the longest?"},
    ],
}
"""Name -> chat; rendered by the template of the model's tokenizer, where it has one."""
