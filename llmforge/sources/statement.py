"""A statement of SQL as far as it must be understood before a database sees it.

In: the text of `data.train` or `data.evaluation`. Out: `Statement`: is it the name of a table or a
query, does it only read, which parameters does it ask for. Comments and quoted texts are told apart
from the rest; nothing else of SQL is parsed, the database does that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

READING = ("select", "with", "values", "table")
"""First words of statements that only read. A `with` may still hide a deletion: the database runs
it in a transaction that reads only."""

_VERBS = frozenset((
    *("alter", "analyze", "attach", "begin", "call", "comment", "commit", "copy", "create"),
    *("delete", "deny", "detach", "do", "drop", "exec", "execute", "explain", "grant", "import"),
    *("insert", "lock", "merge", "pragma", "reindex", "rename", "replace", "revoke", "rollback"),
    *("set", "show", "truncate", "update", "upsert", "use", "vacuum"),
))  # fmt: skip
_PIECE = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted>
          [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)          # PostgreSQL's text with backslashes
        | '(?:[^']|'')*(?:'|\Z)
        | "(?:[^"]|"")*(?:"|\Z)
        | `[^`]*(?:`|\Z)
            | \$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)  # PostgreSQL's dollar quotes
      )
    | (?P<other> \w[\w$]* | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_PARAMETER = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*)(?![:\w])")


@dataclass(frozen=True)
class Statement:
    """One statement as a user wrote it."""

    text: str

    @cached_property
    def bare(self) -> str:
        """The text without comments, and with quoted texts as `''`; of the same meaning to
        whoever looks for words, semicolons and parameters."""
        return self._replaced(lambda _: "''").strip()

    @property
    def first_word(self) -> str:
        """In lower case; empty when it begins with no word."""
        found = re.match(r"\(*\s*([A-Za-z]+)", self.bare)
        return found[1].lower() if found else ""

    @property
    def is_query(self) -> bool:
        """Does it begin as a statement that reads? Otherwise it is a table's name, or wrong."""
        return self.first_word in READING and re.search(r"\W", self.bare) is not None

    @property
    def is_order(self) -> bool:
        """Is it a statement that does something else than reading?"""
        return self.first_word in _VERBS and re.search(r"\s", self.bare) is not None

    @property
    def is_single(self) -> bool:
        """Does nothing stand behind the semicolon, if there is one?"""
        return not self.bare.partition(";")[2].strip(" \t\r\n;")

    @property
    def parameters(self) -> list[str]:
        """Names that the statement asks for as `:name`, in the order they first come."""
        return list(dict.fromkeys(_PARAMETER.findall(self.bare)))

    @property
    def to_bind(self) -> str:
        """The text for `sqlalchemy.text`: colons in comments and quoted texts are escaped, so that
        only what `parameters` names is bound; a closing semicolon is left out."""
        escaped = self._replaced(lambda quoted: quoted.replace(":", "\\:"))
        return escaped.strip().rstrip("; \t\r\n")

    def place_of(self, word: str) -> tuple[int, int] | None:
        """Line and column, from 1, of a word that stands in the text exactly once."""
        found = [m.start() for m in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", self.text)]
        if len(found) != 1 or not word:
            return None
        before = self.text[: found[0]]
        return before.count("\n") + 1, found[0] - (before.rfind("\n") + 1) + 1

    def _replaced(self, quoted: Callable[[str], str]) -> str:
        """The text with each comment as a space and each quoted text as `quoted` makes it."""
        pieces = []
        for match in _PIECE.finditer(self.text):
            if match["comment"] is not None:
                pieces.append(" ")
            else:
                pieces.append(match[0] if match["quoted"] is None else quoted(match[0]))
        return "".join(pieces)
