"""Sources of a mix: what they do not say stands in their kind's option, with its origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.compiler.fill import fill_sources
from llmforge.compiler.passes import check
from llmforge.compose import compose
from llmforge.origins import leaves
from llmforge.schema.data import SOURCES


@pytest.fixture(autouse=True)
def here(work: Path) -> Path:
    (work / "rows.jsonl").write_text('{"q": "a", "completion": "b"}\n' * 100)
    return work


def filled(sources: str, *overrides: str, dirs: tuple[str, ...] = ()):
    return fill_sources(compose(["data=mix", f"data.sources={sources}", *overrides], dirs), dirs)


def test_another_kind_of_data_is_left_alone():
    draft = compose([])

    assert fill_sources(draft) is draft


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_has_every_key_of_its_kind_and_no_other(kind):
    """But for those that have no value until they are given one."""
    mandatory = {"hub": {"id"}, "sql": {"url", "train"}, "class": {"name"}, "saved": {"path"}}

    found = set(filled(f"{{one: {{kind: {kind}}}}}").values["data"]["sources"]["one"])

    assert found == set(SOURCES[kind].model_fields) - mandatory.get(kind, {"train"})


def test_what_a_source_says_stands_above_its_option():
    draft = filled("{one: {kind: csv, train: a.csv, delimiter: ';', fields: {prompt: q}}}")
    one = draft.values["data"]["sources"]["one"]

    assert (one["train"], one["delimiter"], one["header"]) == ("a.csv", ";", True)
    assert (one["fields"]["prompt"], one["fields"]["completion"]) == ("q", "completion")


def test_every_leaf_of_a_source_has_an_origin():
    draft = filled("{one: {kind: csv, train: a.csv, fields: {prompt: q}}}")

    for key, _ in leaves(draft.values["data"]["sources"], "data.sources"):
        assert draft.origins.chain(key), key
    shipped = draft.origins.chain("data.sources.one.fields.completion")[-1]
    own = draft.origins.chain("data.sources.one.fields.prompt")[-1]
    assert "_source.yaml" in shipped.where
    assert own.kind == "override"


def test_an_option_of_ones_own_is_taken(here):
    (here / "mine/data").mkdir(parents=True)
    (here / "mine/data/csv.yaml").write_text("kind: csv\ndelimiter: '|'\n")

    draft = filled("{one: {kind: csv, train: a.csv}}", dirs=("mine",))

    assert draft.values["data"]["sources"]["one"]["delimiter"] == "|"


def test_sources_are_apart():
    draft = filled("{a: {kind: jsonl, train: x}, b: {kind: jsonl, train: y, select: ['n == 1']}}")
    sources = draft.values["data"]["sources"]

    assert (sources["a"]["select"], sources["b"]["select"]) == ([], ["n == 1"])
    assert sources["a"]["fields"] is not sources["b"]["fields"]


def test_a_mix_compiles_with_little_said():
    one = "{kind: jsonl, train: rows.jsonl, fields: {prompt: q}}"

    checked = check(["data=mix", f"data.sources={{a: {one}, b: {one}}}", "hardware=cpu"])

    assert not checked.refused, checked.diagnostics
    assert checked.context.facts.data.sets == {"a": 5, "b": 5}
    assert checked.context.spec.data.sources["a"].shape == "prompt_completion"


@pytest.mark.parametrize(
    ("sources", "code", "key"),
    [
        ("{a: {kind: csw, train: x}}", "LF103", "data.sources.a.kind"),
        ("{a: {train: x}}", "LF103", "data.sources.a.kind"),
        ("{a: 3}", "LF104", "data.sources.a"),
        (
            "{a: {kind: jsonl, train: rows.jsonl, delimiter: ',', fields: {prompt: q}}}",
            "LF101",
            "data.sources.a.delimiter",
        ),
        ("{a: {kind: jsonl}}", "LF105", "data.sources.a.train"),
        ("3", "LF104", "data.sources"),
        ("{}", "LF104", "data.sources"),
    ],
)
def test_faulty_sources_are_told_by_key(sources, code, key):
    checked = check(["data=mix", f"data.sources={sources}", "hardware=cpu"])

    assert [(d.code, d.key) for d in checked.diagnostics if d.is_error] == [(code, key)]
