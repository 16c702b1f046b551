"""Findings and tables as text, JSON, and annotations."""

from __future__ import annotations

import io
import json

import pytest

from llmforge import render
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.origins import Origin

FILE = Origin("file", "conf/trainer/default.yaml", 32, 6)
OVERRIDE = Origin("override", "trainer.global_batch=96", 96)
DERIVED = Origin("derived", "derive_batch", 16, reason="what fits")


def finding(*origins: Origin, **changes) -> Diagnostic:
    values = {"key": "trainer.global_batch", "notes": ("9.6",), "hint": "trainer.global_batch=100"}
    return Diagnostic("LF204", "it does not divide", origins=origins, **{**values, **changes})


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (
            finding(FILE, OVERRIDE),
            [
                "error[LF204]: it does not divide",
                "  --> command line                  trainer.global_batch=96",
                "      conf/trainer/default.yaml:6   replaced 32",
                "  note: 9.6",
                "hint: trainer.global_batch=100",
            ],
        ),
        (
            finding(FILE, notes=(), hint=None),
            [
                "error[LF204]: it does not divide",
                "  --> conf/trainer/default.yaml:6   trainer.global_batch: 32",
            ],
        ),
        (
            finding(DERIVED, severity=Severity.WARNING, notes=(), hint=None),
            [
                "warning[LF204]: it does not divide",
                "  --> derived by derive_batch   trainer.global_batch: 16   (what fits)",
            ],
        ),
        (finding(notes=(), hint=None, key=None), ["error[LF204]: it does not divide"]),
        (
            finding(
                Origin("override", "tracking={token: s3cret, uri: x}", "x"),
                key="tracking.uri", notes=(), hint=None,
            ),
            [
                "error[LF204]: it does not divide",
                "  --> command line   tracking.uri: x",
            ],
        ),
    ],
)  # fmt: skip
def test_finding_as_text(found, lines):
    assert render._finding(found, colour=False).splitlines() == lines


@pytest.mark.parametrize("code", ["LF107", "LF108", "LF109", "LF111", "LF118"])
def test_findings_about_files_show_the_place_alone(code):
    found = Diagnostic(code, "odd", key="trainer", origins=(Origin("file", "mine/a.yaml", line=3),))

    assert render._finding(found, colour=False).splitlines()[1] == "  --> mine/a.yaml:3"


@pytest.mark.parametrize(
    ("severities", "count"),
    [
        (["error"], "1 error; nothing was started"),
        (["error", "error", "warning"], "2 errors, 1 warning; nothing was started"),
        (["warning", "warning"], "2 warnings"),
    ],
)
def test_findings_are_counted(severities, count):
    text = render.findings_text([finding(severity=Severity(s)) for s in severities])

    assert text.split("\n\n")[-1] == count


@pytest.mark.parametrize("code", ["LF716", "LF732", "LF802"])
def test_what_stops_in_the_middle_did_start(code):
    assert render.findings_text([Diagnostic(code, "odd")]).endswith("\n\n1 error")


def test_no_findings_no_text():
    assert render.findings_text([]) == ""


def test_colour_marks_and_does_not_carry_meaning():
    plain = render.findings_text([finding(FILE)])
    painted = render.findings_text([finding(FILE)], colour=True)

    assert "\x1b[31;1merror[LF204]\x1b[0m" in painted
    assert "".join(part.partition("m")[2] for part in f"m{painted}".split("\x1b[")) == plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_on_a_terminal_that_has_not_said_no(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    assert render.wants_colour(Terminal())
    assert not render.wants_colour(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not render.wants_colour(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not render.wants_colour(Terminal())


def test_findings_as_json():
    found = json.loads(render.findings_json([finding(FILE, severity=Severity.WARNING)]))

    assert found["refused"] is False
    assert found["findings"][0]["origins"] == [
        {"kind": "file", "where": "conf/trainer/default.yaml", "value": 32, "line": 6}
    ]


@pytest.mark.parametrize(
    ("origins", "place"),
    [
        ((FILE,), "file=conf/trainer/default.yaml,line=6,"),
        ((FILE, DERIVED), "file=conf/trainer/default.yaml,line=6,"),
        ((FILE, OVERRIDE), ""),  # the file is not at fault
        ((Origin("file", "mine/a.yaml"),), "file=mine/a.yaml,"),
        ((), ""),
    ],
)
def test_annotation_of_the_file_at_fault(origins, place):
    found = finding(*origins, notes=("100% odd",), hint=None)

    assert render.findings_github([found]) == (
        f"::error {place}title=LF204::it does not divide%0A100%25 odd"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [("auto", "auto"), (None, "null"), (True, "true"), (1e-8, "1e-08"), ([1, "a"], '[1, "a"]'),
     ("x" * 70, "x" * 57 + "..."), ("ü", "ü"), ({"a": "ü"}, '{"a": "ü"}')],
)  # fmt: skip
def test_values_as_they_stand_in_yaml(value, text):
    assert render.shown(value) == text


def test_table_is_aligned_and_has_no_trailing_blanks():
    assert render.table([("a", "first"), ("long", "")], ("name", "what")) == (
        "name  what\na     first\nlong"
    )


def test_plan_without_facts_is_shown_too(compiled):
    """A hub model that was never downloaded: size unknown, everything else told."""
    text = render.plan_text(compiled("hardware=cpu", "model=hub", "model.id=example/none"))

    summary = text.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in summary] == [
        "plan", "data", "length", "records", "hardware", "folder"
    ]  # fmt: skip


def test_share_of_trained_parameters(compiled):
    text = render.plan_text(compiled("model=folder", "model.path=tiny", "lora=small"))

    assert "  model      LlamaForCausalLM, 14,800 parameters, 4,352 trained (29.41%)" in text
