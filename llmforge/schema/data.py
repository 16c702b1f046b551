"""Schema of the rows that are learnt from: a class per kind of source, and what is done with them.

In: nothing. Out: the spec classes of section `data`. A `Source` says where rows come from and what
their columns mean; `Rows` says how rows are split, counted and refused. A `data` kind is both; in
`data=mix` many sources stand under one `Rows`. How rows become batches is `schema/collate.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from llmforge.registry import register
from llmforge.schema.base import Allowance, Auto, Effect, NonNegativeInt, PositiveInt, Spec

Shape = Literal["text", "prompt_completion", "text_parts", "messages", "instruction", "preference"]
Files = Annotated[list[str], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
"""Of a source or an evaluation set; stands in metric names: `eval_<name>_loss`."""
Paths = str | Files
"""A file, a folder, a glob, or several of them; taken in the order given, globs sorted by name."""
EvaluationPaths = Paths | dict[Name, Paths] | None
"""Files of one evaluation set, or a mapping of names to the files of several."""


def _column(value: Any) -> Any:
    """Columns of a file without a header are numbered, and a bare `1` is a number in YAML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Column = Annotated[str, BeforeValidator(_column)]


class Fields(Spec):
    """Which column holds what. A name may be a path: `meta.lang`, `answers.0`."""

    effect = Effect.DATA

    text: Column
    """Whole text (shape `text`)."""
    prompt: Column
    """What is given (shapes `prompt_completion` and `preference`; of the latter it may be missing,
    and is then what both answers begin with)."""
    completion: Column
    """What is learnt (shape `prompt_completion`)."""
    text_parts: Column
    """List of texts (shape `text_parts`)."""
    instruction: Column
    """What is asked (shape `instruction`)."""
    input: Column
    """What it is asked about; may be missing or empty (shape `instruction`)."""
    output: Column
    """What is learnt (shape `instruction`)."""
    chosen: Column
    """The better answer: text, one message or a list of messages (shape `preference`)."""
    rejected: Column
    """The worse answer, written like the better one (shape `preference`)."""
    messages: Column
    """List of messages (shape `messages`)."""
    tools: Column
    """List of tool descriptions given to the chat template; may be missing (shapes `messages` and
    `preference`)."""
    role: Column
    """Key of a message's role: `role`, or `from` in ShareGPT data."""
    content: Column
    """Key of a message's text: `content`, or `value` in ShareGPT data."""
    flag: Column
    """Key of a message that says whether it is learnt (`collator.turns=flagged`): true or false,
    1 or 0; a message without it is not."""


class Source(Spec):
    """Where rows come from, and what their columns mean."""

    effect = Effect.DATA

    kind: str
    shape: Shape | Auto
    """What a row holds; `auto` detects it from the first row's columns."""
    fields: Fields
    """Names of the columns."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]]
    """Other names of roles: `{human: user, gpt: assistant}`."""
    strict_turns: bool
    """Refuse chats that begin with the assistant or hold two turns of one side in a row."""
    select: list[str]
    """Conditions that a row must meet, all of them: `lang == "en"`, `score >= 0.5`,
    `topic in ["maths", "physics"]`, `text contains "cat"`."""
    transform: str | None
    """Name of a registered function (`llmforge.transform`) that is given each row and returns a
    row, a list of rows, or null to leave it out."""
    fold: str | None
    """Column that says `train` or `valid` of each row; those held out become the evaluation set."""


class FileSource(Source):
    """Local files."""

    train: Annotated[Paths | None, Effect.BOOKKEEPING]
    """Files, folders or globs; `.gz`, `.bz2` and `.xz` are unpacked. Their digests enter the
    fingerprint, not their paths. Null only where another source of a mix is trained on."""
    evaluation: Annotated[EvaluationPaths, Effect.BOOKKEEPING]
    """Evaluation files, or a mapping of set names to files; null holds out `data.eval_fraction` of
    the training rows."""


class JsonlSource(FileSource):
    """JSON Lines: one object a line, UTF-8."""

    kind: Literal["jsonl"]


class JsonSource(FileSource):
    """JSON: one list of objects a file, or an object with one such list."""

    kind: Literal["json"]


def _tab(value: Any) -> Any:
    """On the command line a tab can only be written."""
    return "\t" if value == "\\t" else value


class CsvSource(FileSource):
    """Comma-, tab- or otherwise separated values, UTF-8. Every value stays text."""

    kind: Literal["csv"]
    delimiter: Annotated[str, BeforeValidator(_tab), Field(min_length=1, max_length=1)]
    """Between values: `,`, `;`, a tab (also written `\\t`)."""
    quote: Annotated[str, Field(min_length=1, max_length=1)] | None
    """Around values that hold a delimiter or a line break; doubled inside. Null for none."""
    header: bool
    """The first line names the columns; without it they are named `1`, `2`, ..."""


class ParquetSource(FileSource):
    """Apache Parquet files."""

    kind: Literal["parquet"]


class ArrowSource(FileSource):
    """Arrow IPC files, streams and Feather files."""

    kind: Literal["arrow"]


class TextSource(FileSource):
    """Plain text, UTF-8; rows have one column, `text`."""

    kind: Literal["text"]
    unit: Literal["line", "paragraph", "file"]
    """What is one row: a line, lines up to a blank one, or the whole file."""


class SavedSource(Source):
    """A folder written by `datasets.save_to_disk`."""

    kind: Literal["saved"]
    path: Annotated[str, Effect.BOOKKEEPING]
    """The folder; the digests of its Arrow files enter the fingerprint."""
    train: str | None
    """Name of the split; null when the folder holds one data set without splits."""
    evaluation: str | dict[Name, str] | None
    """Split held out, or a mapping of set names to splits."""


class HubSource(Source):
    """A data set of the Hugging Face hub, or what `datasets.load_dataset` takes in its place."""

    kind: Literal["hub"]
    id: str
    """`owner/name`."""
    configuration: str | None
    """Name of its configuration (subset); null for the only or default one."""
    revision: str
    """Branch, tag or commit; the plan holds the commit it stood for."""
    train: str | None
    """Name of the split."""
    evaluation: str | dict[Name, str] | None
    """Split held out, or a mapping of set names to splits."""


_PASSWORD = re.compile(r"[\w+.-]+://[^/@:]*:[^@]*@|.*[?&]password=", re.IGNORECASE)


def _check_url(value: str) -> str:
    if _PASSWORD.match(value):
        # The value itself must not be repeated in the message: it holds the password.
        raise ValueError("secret given as a plain value")
    return value


class SqlSource(Source):
    """Rows of a database, read through SQLAlchemy."""

    kind: Literal["sql"]
    url: Annotated[str, AfterValidator(_check_url), Effect.BOOKKEEPING]
    """SQLAlchemy URL: `sqlite:///chats.db`, `postgresql+psycopg://user@host/db`; or `env:NAME`. A
    password stands in the environment, never here."""
    train: str | None
    """A table's name, or a SELECT; give the SELECT an ORDER BY. A table is read by primary key."""
    evaluation: str | dict[Name, str] | None
    """Table or SELECT of the evaluation set, or a mapping of set names to them."""
    parameters: dict[str, str | int | float | bool | None]
    """Values of `:name` in the SELECTs."""


class ClassSource(Source):
    """A registered data set class: `get_data` lists samples, `get_sample` makes each one."""

    kind: Literal["class"]
    name: str
    """Under which it was registered with `llmforge.dataset`, by a module named in `plugins`."""
    options: dict[str, Any]
    """Given to `get_data`."""
    refresh: Annotated[bool, Effect.BOOKKEEPING]
    """Call `get_data` again although a snapshot of the same class and options is there."""


class Rows(Spec):
    """How rows are split, counted and refused; the same for every kind of `data`."""

    effect = Effect.DATA

    kind: str
    eval_fraction: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Share of the training rows held out when no evaluation set is given; 0 holds out none."""
    split_seed: NonNegativeInt
    """Seed of which rows are held out, apart from the run's seed: runs that differ in their seed
    only share the prepared data and are measured on the same rows."""
    max_train_rows: PositiveInt | None
    """Use only the first N training rows; null takes all."""
    max_eval_rows: PositiveInt | None
    """Use only the first N rows of each evaluation set; null takes all."""
    eval_surplus: Literal["drop", "train"]
    """What becomes of evaluation rows beyond `max_eval_rows`: left out, or trained on."""
    shuffle: Annotated[bool, Effect.NUMERICS]
    """Shuffle the training samples each epoch with the run's seed."""
    max_bad_rows: Annotated[Allowance, Effect.BOOKKEEPING]
    """Rows that cannot be read or lack what their shape needs: how many may be left out, each with
    a line in the receipt."""
    max_untrained_rows: Annotated[Allowance, Effect.BOOKKEEPING]
    """Training rows without a token that carries loss, after cutting: how many may be left out."""
    max_cut_tokens: Annotated[Allowance, Effect.BOOKKEEPING]
    """Tokens that truncation may remove, of all."""
    require_end_token: Annotated[bool, Effect.BOOKKEEPING]
    """Refuse data in which no end token carries loss anywhere: such a model never learns to
    stop."""
    max_overlap: Annotated[Allowance, Effect.BOOKKEEPING]
    """Evaluation rows that may stand in the training set as well."""
    workers: Annotated[PositiveInt | Auto, Effect.SPEED]
    """Processes that render and tokenise; the result is the same for any number."""
    streaming: Annotated[bool, Effect.NUMERICS]
    """Tokenise while training and store nothing, for rows that do not fit on the disk twice. Needs
    `trainer.max_steps`; rows are shuffled within a buffer only."""


AnySource = Annotated[
    JsonlSource
    | JsonSource
    | CsvSource
    | ParquetSource
    | ArrowSource
    | TextSource
    | SavedSource
    | HubSource
    | SqlSource
    | ClassSource,
    Field(discriminator="kind"),
]

SOURCES: dict[str, type[Source]] = {
    "jsonl": JsonlSource,
    "json": JsonSource,
    "csv": CsvSource,
    "parquet": ParquetSource,
    "arrow": ArrowSource,
    "text": TextSource,
    "saved": SavedSource,
    "hub": HubSource,
    "sql": SqlSource,
    "class": ClassSource,
}
"""Kinds that may stand in a mix."""

_ROWS = "llmforge.build.data:open_splits"


class GeneratedData(Rows):
    """What llmforge generates itself."""

    shape: str
    rows: Annotated[int, Field(ge=200, le=50_000)]
    """Conversations generated, training and held-out together."""
    generator_seed: int
    """Seed of the generator, apart from the run's seed."""


@register("data", "builtin", "llmforge.build.data:builtin_splits")
class BuiltinData(GeneratedData):
    """The example conversations that llmforge generates itself."""

    kind: Literal["builtin"]
    shape: Literal["messages"]
    """They are chats."""


@register("data", "builtin_pairs", "llmforge.build.data:builtin_splits")
class BuiltinPairs(GeneratedData):
    """The same conversations, each with the right last answer and a wrong one."""

    kind: Literal["builtin_pairs"]
    shape: Literal["preference"]
    """They are pairs of chats."""


@register("data", "builtin_short", "llmforge.build.data:builtin_splits")
class BuiltinShort(GeneratedData):
    """The same conversations with answers of a word or two: a second task for a model that learnt
    the first."""

    kind: Literal["builtin_short"]
    shape: Literal["messages"]
    """They are chats."""


@register("data", "jsonl", _ROWS)
class JsonlData(JsonlSource, Rows):
    """JSON Lines: one object a line, UTF-8."""


@register("data", "json", _ROWS)
class JsonData(JsonSource, Rows):
    """JSON: one list of objects a file, or an object with one such list."""


@register("data", "csv", _ROWS)
class CsvData(CsvSource, Rows):
    """Comma-, tab- or otherwise separated values, UTF-8. Every value stays text."""


@register("data", "parquet", _ROWS)
class ParquetData(ParquetSource, Rows):
    """Apache Parquet files."""


@register("data", "arrow", _ROWS)
class ArrowData(ArrowSource, Rows):
    """Arrow IPC files, streams and Feather files."""


@register("data", "text", _ROWS)
class TextData(TextSource, Rows):
    """Plain text, UTF-8; rows have one column, `text`."""


@register("data", "saved", _ROWS)
class SavedData(SavedSource, Rows):
    """A folder written by `datasets.save_to_disk`."""


@register("data", "hub", _ROWS)
class HubData(HubSource, Rows):
    """A data set of the Hugging Face hub."""


@register("data", "sql", _ROWS)
class SqlData(SqlSource, Rows):
    """Rows of a database, read through SQLAlchemy."""


@register("data", "class", _ROWS)
class ClassData(ClassSource, Rows):
    """A registered data set class: `get_data` lists samples, `get_sample` makes each one."""


@register("data", "mix", _ROWS)
class MixData(Rows):
    """Several sources in one training set."""

    kind: Literal["mix"]
    shape: Literal["mixed"]
    """Each source has its own."""
    sources: Annotated[dict[Name, AnySource], Field(min_length=1)]
    """By name. A source gives its `kind` and what differs from that kind's option in `conf/data`;
    its evaluation sets are named after it."""
    weights: dict[Name, Annotated[float, Field(gt=0.0)]] | None
    """Share of the training rows that each source has; they need not sum to 1. Null takes every
    row of every source once."""
    exhausted: Literal["first", "all"]
    """With weights: stop when the `first` source runs out (rows of the others are left over), or
    when `all` did (rows of smaller ones repeat)."""
