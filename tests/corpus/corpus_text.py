"""The part of the corpus that is text: JSON Lines, JSON, delimited and plain text.

In: a corpus that is being filled. Out: `add_text_files`. Code, line and rows of a case are written
by hand, next to the bytes they are about.
"""

from __future__ import annotations

from corpus_cases import Corpus

GOOD = '{"prompt": "How many legs has a spider?", "completion": "8"}\n'
CHAT = (
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hey"}]}\n'
)


def amid(line: str) -> str:
    """A line between two good ones, so that it is line 2."""
    return GOOD + line + "\n" + GOOD


def row(completion: str) -> str:
    """A row whose completion is given as JSON."""
    return '{"prompt": "How many legs has a bee?", "completion": ' + completion + "}"


def add_text_files(corpus: Corpus) -> None:
    """Every case of this module."""
    add_jsonl(corpus)
    add_jsonl_encodings(corpus)
    add_json(corpus)
    add_csv(corpus)
    add_text(corpus)
    add_meaning(corpus)


def add_jsonl(corpus: Corpus) -> None:
    """Lines that are no rows."""
    one_line: dict[str, tuple[str, str]] = {
        "brace": (row('"6"')[:-1], "closing brace missing at a known line"),
        "comma": (row('"6",'), "comma after the last member"),
        "quotes": ("{'prompt': 'a', 'completion': 'b'}", "single quotes, as Python prints"),
        "comment": (row('"6"') + " // six", "comment behind the row"),
        "two": (row('"6"') + " " + row('"7"'), "two objects on one line"),
        "control": (row('"6\x1b[31m"'), "escape character, which would colour a terminal"),
        "tab": (row('"6\tlegs"'), "tab inside a string"),
        "nul": (row('"6\0"'), "NUL byte inside a string"),
        "nul_block": ("\0" * 512, "block of NUL bytes, as a crash leaves it"),
        "twice": ('{"prompt": "a", "completion": "b", "prompt": "c"}', "a key twice"),
        "twice_deep": ('{"messages": [{"role": "user", "role": "system"}]}', "a key twice inside"),
        "twice_escaped": ('{"prompt": "a", "completion": "b", "\\u0070rompt": "c"}', "same key"),
        "list": ("[1, 2]", "list in place of an object"),
        "number": ("42", "number in place of an object"),
        "null_row": ("null", "null in place of an object"),
        "string": ('"How many legs?"', "text in place of an object"),
        "nan": (row("NaN"), "NaN, which Python writes and JSON lacks"),
        "infinity": (row("-Infinity"), "infinity, which JSON lacks"),
        "overflow": (row("1e999"), "number beyond a float"),
        "digits": (row("7" * 5000), "integer of 5000 digits"),
        "deep": (row("[" * 200 + "]" * 200), "200 levels of lists"),
        "abyss": (row('{"a":' * 50_000 + "1" + "}" * 50_000), "50,000 levels of objects"),
        "bom_inside": ("\ufeff" + row('"6"'), "byte order mark where files were joined"),
    }
    for name, (line, words) in one_line.items():
        corpus.add(f"{name}.jsonl", amid(line), words, line=2)
    corpus.add("cut.jsonl", GOOD * 2 + GOOD[:30], "last line cut short", line=3)
    corpus.add("mac.jsonl", GOOD.replace("\n", "\r") * 3, "carriage returns only",
               line=1, rows=(0, 1))  # fmt: skip
    corpus.add("pretty.jsonl", '{\n  "prompt": "a",\n  "completion": "b"\n}\n',
               "objects over several lines", line=1, rows=(0, 1))  # fmt: skip
    corpus.add("list_of_rows.jsonl", "[\n" + GOOD.strip() + ",\n" + GOOD + "]\n",
               "a JSON list under .jsonl", line=1, rows=(0, 1))  # fmt: skip
    corpus.add("page.jsonl", "<html>\n<body>Log in</body>\n</html>\n", "a web page was saved",
               line=1, rows=(0, 1))  # fmt: skip
    corpus.add("pointer.jsonl", "version https://git-lfs.example/spec/v1\noid sha256:00\n",
               "Git LFS pointer", rows=(0, 0))  # fmt: skip
    corpus.add("empty.jsonl", "", "empty file", code="LF502", rows=(0, 0), by="flow")
    corpus.add("blank.jsonl", "\n \n\r\n", "blank lines only", code="LF502", rows=(0, 0), by="flow")
    corpus.add("bom_only.jsonl", b"\xef\xbb\xbf", "byte order mark only", code="LF502",
               rows=(0, 0), by="flow")  # fmt: skip
    fine: dict[str, tuple[str, int, str]] = {
        "bom": ("\ufeff" + GOOD * 2, 2, "byte order mark at the start"),
        "crlf": (GOOD.replace("\n", "\r\n") * 2, 2, "carriage returns and line feeds"),
        "gaps": ("\n" + GOOD + "\n\n" + GOOD + "  \n", 2, "blank lines between rows"),
        "separators": (row('"6\u2028legs\u2029and\u0085wings"') + "\n", 1, "other line breaks"),
        "pair": (row('"\\ud83d\\ude00"') + "\n", 1, "a character escaped as its two halves"),
        "backslash": (row('"\\\\ud83d"') + "\n", 1, "a backslash, then letters: no half character"),
        "long": (GOOD + row('"' + "six " * 7_500_000 + '"') + "\n", 2, "row of 30 MB"),
        "escaped_nul": (row('"6\\u0000"') + "\n", 1, "NUL as JSON writes it"),
    }
    for name, (content, rows, words) in fine.items():
        corpus.add(f"{name}.jsonl", content, words, code=None, rows=(rows, 0))


def add_jsonl_encodings(corpus: Corpus) -> None:
    """Bytes that are no UTF-8, or characters that cannot be."""
    german = '{"prompt": "Wie heißt du?", "completion": "Jörg"}\n'
    quoted = '{"prompt": "“Who?”", "completion": "me – you"}\n'  # noqa: RUF001 - the dash is the case
    russian = '{"prompt": "Сколько ног у паука?", "completion": "восемь"}\n'  # noqa: RUF001 - Russian
    whole: dict[str, tuple[bytes, str]] = {
        "latin1": (german.encode("latin-1") * 3, "Latin-1"),
        "windows": (quoted.encode("cp1252") * 3, "Windows-1252"),
        "koi8": (russian.encode("koi8-r") * 3, "KOI8-R"),
        "utf16": ((german * 3).encode("utf-16"), "UTF-16 with its mark"),
        "utf16le": ((GOOD * 3).encode("utf-16-le"), "UTF-16 without a mark"),
        "utf16be": ((GOOD * 3).encode("utf-16-be"), "UTF-16, big end first, without a mark"),
        "utf32": ((german * 3).encode("utf-32"), "UTF-32"),
    }
    for name, (content, words) in whole.items():
        corpus.add(f"{name}.jsonl", content, words, code="LF503", line=1, rows=(0, 1))
    corpus.add("latin1_late.jsonl", GOOD.encode() * 2 + german.encode("latin-1") * 2,
               "Latin-1 that shows in line 3", code="LF503", line=3, rows=(2, 1))  # fmt: skip
    damaged = german.encode() + b'{"prompt": "a\xff", "completion": "b"}\n' + german.encode()
    corpus.add("byte.jsonl", damaged, "one bad byte in UTF-8", code="LF503", line=2)
    cut = german.encode() * 2 + german.encode()[: german.encode().index("ß".encode()) + 1]
    corpus.add("half_character.jsonl", cut, "cut in a character", code="LF503", line=3)
    java = GOOD.encode() + b'{"prompt": "\xed\xa0\xbd\xed\xb8\x80", "completion": "b"}\n'
    corpus.add("cesu.jsonl", java + GOOD.encode(), "halves written as bytes", code="LF503", line=2)
    corpus.add("half.jsonl", amid(row('"\\ud83d"')), "lone surrogate", code="LF503", line=2)
    corpus.add("low_half.jsonl", amid(row('"a\\uDE00b"')), "low surrogate", code="LF503", line=2)
    corpus.add("half_key.jsonl", amid('{"\\ud83d": 1, "prompt": "a", "completion": "b"}'),
               "lone surrogate in a key", code="LF503", line=2)  # fmt: skip


def add_json(corpus: Corpus) -> None:
    """Lists of rows with something wrong."""
    good = GOOD.strip()
    corpus.add("open.json", f"[{good},\n{good}", "list never closed", line=2)
    corpus.add("cut.json", f"[{good},\n{good},\n{good[:30]}", "cut in the third row", line=3)
    corpus.add("trailing.json", f"[{good},\n{good},\n]", "comma before the end", line=3)
    corpus.add("no_comma.json", f"[{good},\n{good}\n{good}]", "comma missing", line=3)
    corpus.add("extra.json", f"[{good},\n{good}]\nend", "text behind the list", line=3)
    corpus.add("members.json", f"[{good},\n3,\n{good}]", "number among the rows", line=2)
    corpus.add("twice.json", f'[{good},\n{{"text": 1, "text": 2}},\n{good}]', "key twice", line=2)
    corpus.add("nan.json", f"[{good},\n{row('NaN')},\n{good}]", "NaN", line=2)
    corpus.add("half.json", f"[{good},\n{row(chr(34) + chr(92) + 'ud83d' + chr(34))},\n{good}]",
               "lone surrogate", code="LF503", line=2)  # fmt: skip
    corpus.add("nul.json", f"[{good},\n{good},\n\0\0\0]", "NUL bytes in place of a row", line=3)
    corpus.add("lists.json", f'{{"train": [{good},\n{good}],\n"test": [{good}]}}',
               "two lists of rows", line=3)  # fmt: skip
    corpus.add("lines.json", GOOD * 2, "JSON lines under .json", rows=(0, 0))
    corpus.add("columns.json", '{"prompt": {"0": "a"}, "completion": {"0": "b"}}',
               "columns in place of rows", rows=(0, 0))  # fmt: skip
    corpus.add("scalar.json", '"rows"', "text in place of a list", line=1, rows=(0, 1))
    corpus.add("latin1.json", f'[{good},\n{{"text": "Jörg"}}]'.encode("latin-1"), "Latin-1",
               code="LF503", line=2, rows=(1, 1))  # fmt: skip
    corpus.add("utf16.json", f"[{good}]".encode("utf-16"), "UTF-16", code="LF503", line=1,
               rows=(0, 1))  # fmt: skip
    corpus.add("empty_list.json", "[]", "empty list", code="LF502", rows=(0, 0), by="flow")
    corpus.add("inside.json", f'{{"version": 1, "tags": ["a"], "data": [{good},\n{good}]}}',
               "list inside an object", code=None, rows=(2, 0))  # fmt: skip
    corpus.add("bom.json", f"\ufeff[{good}]", "byte order mark", code=None, rows=(1, 0))


def add_csv(corpus: Corpus) -> None:
    """Records that do not fit their header, and headers that fit nothing."""
    head, good = "prompt,completion\n", "legs?,8\n"
    amid_csv: dict[str, tuple[str, str]] = {
        "short": ("legs?\n", "too few values"),
        "more": ("legs?,8,spider\n", "too many values"),
        "comma": ("legs, of a bee?,6\n", "value with a bare comma"),
        "undoubled": ('legs,"say "six""\n', "quote inside a value, not doubled"),
        "backslash": ('legs,"say \\"six\\""\n', "quote escaped by a backslash"),
        "nul": ("legs?,6\0\n", "NUL byte"),
    }
    for name, (line, words) in amid_csv.items():
        corpus.add(f"{name}.csv", head + good + line + good, words, line=3)
    corpus.add("quote.csv", head + good * 2 + 'legs?,"six', "quote open at the end", line=4)
    corpus.add("swallow.csv", head + good + 'legs?,"six\n' + good * 3, "open quote takes all rows",
               line=3, rows=(1, 1))  # fmt: skip
    corpus.add("names.csv", "prompt,prompt\na,b\n", "a column name twice", rows=(0, 0))
    corpus.add("index.csv", ",prompt,completion\n0,a,b\n", "column without a name", rows=(0, 0))
    corpus.add("semicolons.csv", "prompt;completion\na;b\n", "other delimiter", rows=(0, 0))
    corpus.add("tabs.csv", "prompt\tcompletion\na\tb\n", "tabs under data=csv", rows=(0, 0))
    corpus.add("mac.csv", (head + good).replace("\n", "\r"), "carriage returns only", line=1,
               rows=(0, 1))  # fmt: skip
    corpus.add("latin1.csv", (head + "Wie heißt du?,Jörg\n" * 3).encode("latin-1"), "Latin-1",
               code="LF503", line=2, rows=(0, 1))  # fmt: skip
    corpus.add("utf16.csv", (head + good).encode("utf-16"), "UTF-16, as spreadsheets save it",
               code="LF503", line=1, rows=(0, 1))  # fmt: skip
    corpus.add("byte.csv", (head + "Jörg,8\n").encode() + b"a\xff,b\n" + good.encode(),
               "one bad byte in UTF-8", code="LF503", line=3)  # fmt: skip
    corpus.add("bare.csv", "a,b\nc,d,e\nf,g\n", "ragged, without a header", line=2,
               options=("data.header=false",))  # fmt: skip
    corpus.add("head.csv", head, "header only", code="LF502", rows=(0, 0), by="flow")
    corpus.add("ragged.tsv", "prompt\tcompletion\na\tb\nc\nd\te\n", "ragged TSV", line=3)
    fine: dict[str, tuple[str, int, str]] = {
        "breaks": (head + '"legs\nof a\r\nbee?",6\n' + good, 2, "line breaks inside quotes"),
        "texts": (head + "2024-01-01,NA\n001,1e5\nnull,True\n,nan\n", 4, "look like other types"),
        "bom": ("\ufeff" + head + good, 1, "byte order mark"),
        "doubled": (head + 'legs,"say ""six"""\n', 1, "doubled quotes"),
        "wide": (head + "a," + "b" * 200_000 + "\n", 1, "value beyond the csv module's own limit"),
        "gaps": (head + "\n" + good + "  \n" + good, 2, "blank lines"),
    }
    for name, (content, rows, words) in fine.items():
        corpus.add(f"{name}.csv", content, words, code=None, rows=(rows, 0))


def add_text(corpus: Corpus) -> None:
    """Plain text."""
    corpus.add("latin1.txt", "one\nJörg\n".encode("latin-1"), "Latin-1", code="LF503", line=2,
               rows=(1, 1), data="text")  # fmt: skip
    corpus.add("utf16.txt", "one\ntwo\n".encode("utf-16"), "UTF-16", code="LF503", line=1,
               rows=(0, 1), data="text")  # fmt: skip
    corpus.add("nul.txt", "one\ntw\0o\nthree\n", "NUL byte", line=2, data="text")
    corpus.add("nul_paragraph.txt", "one\n\ntwo\nth\0ree\n\nfour\n", "NUL byte", line=3,
               data="text", options=("data.unit=paragraph",))  # fmt: skip
    corpus.add("breaks.txt", "one\r\ntwo\r\n\r\n\r\nthree", "paragraphs", code=None, rows=(2, 0),
               data="text", options=("data.unit=paragraph",))  # fmt: skip


def add_meaning(corpus: Corpus) -> None:
    """Rows that can be read and not be learnt from."""
    rows = {
        "missing": ('{"prompt": "a"}', "completion missing"),
        "text_empty": (row('""'), "empty completion"),
        "text_null": (row("null"), "null where text is due"),
        "text_number": (row("6"), "number where text is due"),
        "text_list": (row('["6"]'), "list where text is due"),
    }
    for name, (line, words) in rows.items():
        corpus.add(f"{name}.jsonl", amid(line), words, code="LF505", line=2, by="flow")

    def chat(*turns: tuple[str, str]) -> str:
        said = ", ".join(f'{{"role": "{who}", "content": "{what}"}}' for who, what in turns)
        return CHAT + f'{{"messages": [{said}]}}\n' + CHAT

    chats = {
        "starts": (chat(("assistant", "Hi"), ("user", "Hey")), "begins with the assistant"),
        "two_users": (chat(("user", "a"), ("user", "b"), ("assistant", "c")), "two users in a row"),
        "role": (chat(("human", "a"), ("assistant", "b")), "unknown role"),
        "silent": (chat(("user", "a"), ("assistant", "")), "empty assistant turn"),
        "alone": (chat(("user", "a")), "no assistant turn"),
        "no_turns": (chat(), "no turns at all"),
        "late_system": (chat(("user", "a"), ("system", "b"), ("assistant", "c")), "system late"),
        "no_list": (CHAT + '{"messages": "Hi"}\n' + CHAT, "text in place of turns"),
        "no_content": (CHAT + '{"messages": [{"role": "user"}]}\n' + CHAT, "turn without content"),
    }
    for name, (content, words) in chats.items():
        corpus.add(f"chat_{name}.jsonl", content, words, code="LF505", line=2, by="flow")
    corpus.add("columns.jsonl", '{"q": "a", "a": "b"}\n' * 2, "columns of no shape", code="LF506",
               line=1, rows=(0, 2), by="flow")  # fmt: skip
