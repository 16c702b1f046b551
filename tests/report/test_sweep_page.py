"""The page of a sweep: everything of the folder stands there, and nothing of it is HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from llmforge.report.sweep_page import importance_of, sweep_page, write_sweep_page
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.view import SweepView

EVIL = """<script>window.broken=1</script><img src=x onerror="window.broken=2">"'&{{ 7*7 }}"""


class Outline(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._quiet = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._quiet = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._quiet = self._quiet and tag not in ("script", "style")

    def handle_data(self, data):
        if not self._quiet:
            self.text += data


@pytest.fixture
def page(planted: SweepFolder) -> Outline:
    return Outline(write_sweep_page(planted.path).read_text(encoding="utf-8"))


def test_the_folder_is_read(planted):
    sweep = SweepView.read(planted.path)

    assert sweep.counts == {
        "points": 8, "finished": 2, "failed": 1, "interrupted": 0, "duplicate": 0, "refused": 4,
        "left": 1,
    } | {key: 0 for key in sweep.counts if key == "pruned"}  # fmt: skip
    assert sweep.best is sweep.trials[0]
    assert [one.figures["eval_loss"] for one in sweep.ranked] == [3.1, pytest.approx(3.3)]
    assert sweep.keys == ("lora", "optimizer.lr", "collator.max_length")
    with pytest.raises(FileNotFoundError, match=r"no sweep\.json"):
        SweepView.read(planted.path.parent)


def test_everything_of_the_sweep_stands_there(planted, page):
    best = SweepView.read(planted.path).best

    for text in (
        "Sweep planted", "loss is nan at step 3", "LF803", "for a model that sees 128",
        f"llmforge train --run multirun/planted/{best.run_id}", "llmforge generate", best.run_id,
        "llmforge.load(", "optimizer.weight_decay", "not started",
    ):  # fmt: skip
        assert text in page.text, text
    runs = [attributes["data-run"] for tag, attributes in page.tags if tag == "tr" and attributes]
    assert runs[0] == best.run_id
    assert len(runs) == 4
    assert sum(tag == "svg" for tag, _ in page.tags) == 3  # parallel, training, held out


def test_nothing_is_asked_for(page):
    """No address, no picture from elsewhere, no frame; one policy, one script."""
    names = [tag for tag, _ in page.tags]

    assert names.count("script") == 1
    assert not {"img", "link", "iframe", "object", "embed", "form", "a", "base"} & set(names)
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]


def test_html_in_names_and_texts_is_text(poisoned):
    folder = poisoned(EVIL)

    page = Outline(sweep_page(SweepView.read(folder.path)))

    assert EVIL in page.text
    assert page.text.count("<script>") >= page.text.count("window.broken=1") > 10
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert "img" not in names
    assert "49" not in page.text.replace(EVIL, "").split()


def test_a_sweep_that_has_not_begun(planted):
    for one in planted.path.iterdir():
        if one.is_dir():
            for file in sorted(one.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            one.rmdir()

    page = Outline(sweep_page(SweepView.read(planted.path)))

    assert "not started" in page.text
    assert "0 finished trials cannot say" in page.text


def test_importance_needs_trials(planted):
    found = importance_of(SweepView.read(planted.path))

    assert (found.shares, found.trials) == ({}, 2)
