"""Pictures, measures and pages of runs; and what a browser makes of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.report import drawing
from llmforge.report.importance import importance
from llmforge.report.run_page import run_page
from llmforge.report.scales import Choices, Linear, Logarithmic, scale_of
from llmforge.report.sweep_page import sweep_page
from llmforge.report.writing import write_report
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep.view import SweepView

RUNS = Path("runs")

# -- axes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["none", "small"], Choices),
        (["1e-4", "2e-4"], Choices),
        ([str(10**-n) for n in range(1, 10)], Logarithmic),
        ([str(n) for n in range(100, 120)], Linear),
    ],
)
def test_axis_that_suits_the_values(texts, kind):
    scale = scale_of(texts)

    assert isinstance(scale, kind)
    places = [scale.place(text) for text in texts]
    assert all(0 <= place <= 1 for place in places)
    assert len(set(places)) == len(texts)
    assert scale.place("nothing of it") is None


def test_numbers_are_laid_out_in_their_order():
    scale = scale_of(["2e-4", "1e-4", "1e-3"])

    assert [text for _, text in scale.ticks()] == ["1e-4", "2e-4", "1e-3"]


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0], [-3.0, -3.0], [1e-9, 2e-9], [1e12, 3e12]])
def test_ticks_of_any_range(values):
    ticks = Linear.over(values).ticks()

    assert len(ticks) >= 2
    assert all(-1e-9 <= place <= 1 + 1e-9 for place, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)


# -- pictures ----------------------------------------------------------------------------------


def test_long_lines_are_thinned_and_keep_their_extremes():
    points = dict.fromkeys(range(10000), 1.0) | {777: 9.0, 5001: -9.0}

    kept = drawing.thinned(points)

    assert len(kept) <= drawing.MOST_POINTS + 2
    assert (777, 9.0) in kept
    assert (5001, -9.0) in kept
    assert kept == sorted(kept)


def test_a_line_that_is_not_finite_is_left_out():
    nan = drawing.Line("nan", {1: float("nan"), 2: float("inf")}, run="a")
    good = drawing.Line("good", {1: 1.0, 2: 2.0}, run="b")

    picture = drawing.lines("loss", [nan, good])

    assert 'data-run="b"' in picture
    assert 'data-run="a"' not in picture
    assert drawing.lines("loss", [nan]) == ""


# -- importance --------------------------------------------------------------------------------


def grid_of(rates: list[str], kinds: list[str]) -> list[dict[str, str]]:
    return [{"lr": rate, "kind": kind} for rate in rates for kind in kinds]


def test_the_setting_that_decides_is_the_important_one():
    chosen = grid_of(["1e-4", "1e-3"], ["a", "b"])

    found = importance(chosen, [1.0, 1.1, 3.0, 3.1])

    assert found.method == "explained variance of each key by itself"
    assert list(found.shares) == ["lr", "kind"]
    # between the rates (4 * 1.0**2), and between the kinds (4 * 0.05**2)
    assert found.shares["kind"] == pytest.approx(0.01 / 4.01, abs=1e-3)


def test_with_many_trials_and_optuna_a_forest_is_asked():
    pytest.importorskip("optuna")
    chosen = grid_of([f"{n}e-4" for n in range(1, 9)], ["a", "b"])

    found = importance(chosen, [float(one["lr"]) * 1e4 for one in chosen])

    assert found.method.startswith("functional analysis of variance")
    assert found.shares["lr"] > 0.9


def test_searched_intervals_are_put_into_classes():
    """Every value is another one: each by itself would explain everything, and both the same."""
    chosen = [{"lr": f"{n / 100}", "seed": str(n * 7919 % 11)} for n in range(11)]

    found = importance(chosen, [float(n) for n in range(11)])

    assert found.shares["lr"] > 2 * found.shares["seed"]


@pytest.mark.parametrize("figures", [[1.0] * 4, [1.0, 2.0, 3.0]])
def test_too_little_says_nothing(figures):
    chosen = grid_of(["1", "2"], ["a", "b"])[: len(figures)]

    assert importance(chosen, figures).shares == {}


# -- the page of a run -------------------------------------------------------------------------


def runs_of(folder) -> list[RunFolder]:
    return [RunFolder(file.parent) for file in sorted(folder.path.glob("*/plan.json"))]


def test_page_of_every_run(planted):
    pages = {run.status(): run_page(run) for run in runs_of(planted)}

    done = pages[Status.FINISHED]
    for text in ("2 and 2?", "optimizer.lr", "a trial of sweep", "llmforge train --run", "7"):
        assert text in done, text
    assert "loss is nan at step 3" in pages[Status.FAILED]
    assert "LF803" in pages[Status.FAILED]
    assert "Settings, and who set each value" in pages[Status.CREATED]


def test_html_in_a_run_is_text(poisoned):
    evil = "<script>window.broken=1</script>"

    for run in runs_of(poisoned(evil)):
        page = run_page(run)
        assert page.count("<script>") == 1
        assert "&lt;script&gt;window.broken" in page


# -- the verb ----------------------------------------------------------------------------------


def test_what_a_text_means(planted, work):
    sweep = planted.path / "report.html"
    run = next(run for run in runs_of(planted) if run.status() is Status.FINISHED)

    assert write_report("planted", RUNS).resolve() == sweep
    assert write_report("plan", RUNS).resolve() == sweep
    assert write_report(str(planted.path), RUNS).resolve() == sweep
    assert write_report("last", RUNS).resolve() == sweep
    assert write_report(run.run_id, RUNS) == run.path / "report.html"
    assert write_report("planted", RUNS, work / "new" / "page.html").is_file()
    with pytest.raises(ConfigRefused) as caught:
        write_report("planned", RUNS)
    (found,) = caught.value.diagnostics
    assert (found.code, found.notes) == ("LF743", ("there is a sweep `planted`",))
    assert found.hint == "llmforge report planted"


def test_the_start_of_several_names_is_none(make_sweep):
    make_sweep("tracking=none", name="one-a")
    make_sweep("tracking=none", name="one-b")

    with pytest.raises(ConfigRefused) as caught:
        write_report("one", RUNS)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("LF743", "2 sweeps begin with `one`")
    assert sorted(found.notes) == ["there is a sweep `one-a`", "there is a sweep `one-b`"]
    assert found.hint in ("llmforge report one-a", "llmforge report one-b")


def test_a_page_that_cannot_be_written(planted, work):
    (work / "file").write_text("")

    with pytest.raises(ConfigRefused) as caught:
        write_report("planted", RUNS, work / "file" / "page.html")
    assert caught.value.diagnostics[0].code == "LF743"


# -- in a browser ------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def seen(page: str, work: Path) -> str:
    """The document after its scripts have run."""
    file = work / "page.html"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--virtual-time-budget=2000", f"--user-data-dir={work}/browser", f"file://{file}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_no_text_becomes_code(poisoned, work):
    evil = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    sweep = SweepView.read(poisoned(evil).path)
    page = sweep_page(sweep)
    assert (
        "broken" not in re.findall(r"<title>(.*?)</title>", seen(page, work))[0].partition("&")[0]
    )
    # even where an escape were forgotten, the policy stops it
    forgotten = page.replace("</h1>", f"</h1>{evil}", 1)
    assert "<title>broken</title>" not in seen(forgotten, work)
    without = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", forgotten)
    assert "<title>broken</title>" in seen(without, work)  # the test can fail


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_sorting_choosing_and_filtering(planted, work):
    clicks = """<script>
    document.querySelectorAll('#leaderboard ~ .scroll th button')[5].click();
    document.querySelectorAll('#leaderboard ~ .scroll th button')[5].click();
    document.querySelector('tbody tr[data-run]').click();
    const box = document.querySelector('input[type=search]');
    box.value = 'Optimizer.Weight'; box.dispatchEvent(new Event('input'));
    </script></body>"""
    page = sweep_page(SweepView.read(planted.path)).replace("</body>", clicks)
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)

    found = seen(page, work)

    sweep = SweepView.read(planted.path)
    rows = re.findall(r'<tr data-run="([^"]+)"', found)
    name = "train_loss"
    by_loss = sorted(sweep.ranked, key=lambda one: -one.figures[name])
    assert rows[:2] == [one.run_id for one in by_loss]
    assert 'aria-sort="descending"' in found
    assert '<body class="choosing">' in found
    assert re.findall(r'<g data-run="([^"]+)"[^>]*class="chosen"', found)[0] == rows[0]
    table = found[found.index('id="plan-table"') :]
    shown = re.findall(r'<tr><td class="mono">([^<]+)', table)
    assert shown == ["optimizer.weight_decay"]
