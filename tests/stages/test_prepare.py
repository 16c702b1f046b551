"""Prepared data: what is in it, when it is reused, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmforge.build.errors import BuildError, DataChanged, DataRefused
from llmforge.stages.prepare import prepare


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def folder_names(plan: Any) -> list[str]:
    return sorted(p.name for p in (Path(plan.spec.paths.cache) / "prepared").iterdir())


class TestContents:
    def test_samples_with_labels_lengths_and_their_row(self, make_plan):
        prepared = prepare(make_plan())
        columns = ["input_ids", "labels", "length", "source_row", "set"]
        assert prepared.train.column_names == columns
        assert prepared.evaluation is not None
        assert prepared.evaluation.column_names[-1] == "prompt"
        assert (len(prepared.train), len(prepared.evaluation)) == (12, 4)
        for sample in prepared.train:
            assert sample["length"] == len(sample["input_ids"]) == len(sample["labels"])
        assert prepared.train["source_row"][:] == list(range(12))
        assert prepared.evaluation["source_row"][:] == list(range(4))
        assert prepared.evaluation["set"][:] == [0] * 4
        assert (prepared.tokenizer_folder / "tokenizer.json").is_file()
        assert not prepared.reused

    def test_samples_are_mapped_from_disk(self, make_plan):
        prepared = prepare(make_plan())
        assert prepared.train.cache_files, "a data set in memory has no files"

    def test_no_held_out_rows_no_evaluation(self, make_plan):
        prepared = prepare(make_plan({"data.eval_fraction": 0.0}))
        assert prepared.evaluation is None
        assert prepared.report["evaluation"] is None

    def test_builtin_data_need_no_file(self, make_plan):
        builtin = {
            "kind": "builtin",
            "rows": 200,
            "generator_seed": 0,
            "shape": "messages",
            "eval_fraction": 0.1,
            "max_train_rows": 30,
            "max_eval_rows": None,
            "shuffle": True,
        }
        prepared = prepare(make_plan({"data": builtin, "collator.max_length": 256}))
        assert len(prepared.train) == 30
        assert prepared.report["train"]["rejected"] == {}


class TestCounts:
    ROWS = (
        chat("yes?", "yes"),
        chat("long?", "yes " * 60),
        chat("silent?", "  "),
        {"messages": [{"role": "user", "content": "nobody answers"}]},
        chat("long " * 60, "no"),
        chat("no?", "no"),
    )

    @pytest.mark.parametrize(
        ("truncation", "used", "truncated", "rejected"),
        [
            ("right", 3, 1, {"bad": 2, "no_trained_token": 1}),
            ("left", 4, 2, {"bad": 2}),
            ("split", 4, 0, {"bad": 2}),
            ("drop", 2, 0, {"bad": 2, "over_max_length": 2}),
        ],
    )
    def test_every_row_is_used_or_rejected_with_a_reason(
        self, make_plan, truncation, used, truncated, rejected
    ):
        settings = {
            "collator.truncation": truncation,
            "data.eval_fraction": 0.0,
            "data.max_bad_rows": 2,
        }
        prepared = prepare(make_plan(settings, rows=list(self.ROWS)))
        told = prepared.report["train"]
        assert told["rows"] == 6 == told["used"] + sum(told["rejected"].values())
        assert (told["used"], told["rejected"]) == (used, rejected)
        assert told["longest"] <= 64
        owners = prepared.train["source_row"][:]
        assert len(set(owners)) == used
        assert len(owners) == told["samples"]
        lines = [json.loads(line) for line in (prepared.folder / "receipt.jsonl").open()]
        assert {line["line"] - 1 for line in lines if line["reason"] != "cut"} == (
            set(range(6)) - set(owners)
        ), "a row is in the data or in the receipt"
        cut = [line for line in lines if line["reason"] == "cut"]
        assert len(cut) == told["truncated"]
        if truncation != "split":  # pieces without anything to learn are cut off there
            assert told["truncated"] == truncated
        assert told["tokens_cut"] == sum(int(line["detail"].split()[0]) for line in cut)
        silent = next(line for line in lines if line["line"] == 3)
        assert silent["reason"] == "bad"
        assert silent["detail"].endswith("message 1 is an empty assistant turn")
        assert silent["source"].endswith("train.jsonl")
        assert silent["set"] == "train"

    def test_tokens_add_up(self, make_plan):
        prepared = prepare(make_plan())
        told = prepared.report["train"]
        labels = [label for row in prepared.train for label in row["labels"][1:]]
        assert told["tokens"] == sum(prepared.train["length"][:])
        assert told["tokens_trained"] == sum(label != -100 for label in labels)
        assert told["tokens_masked"] == told["tokens"] - told["tokens_trained"]

    def test_refuse_names_the_long_rows(self, make_plan):
        settings = {
            "collator.truncation": "refuse",
            "data.eval_fraction": 0.0,
            "data.max_bad_rows": 2,
        }
        plan = make_plan(settings, rows=list(self.ROWS))
        with pytest.raises(
            DataRefused,
            match=r"2 rows .*max_length=64: .*train\.jsonl:2 \(\d+ tokens\), .*jsonl:5",
        ):
            prepare(plan)
        assert not [name for name in folder_names(plan) if not name.endswith(".lock")]

    def test_nothing_left_is_refused(self, make_plan):
        rows = [chat("a", "yes " * 60), chat("b", "no " * 60)]
        plan = make_plan({"data.eval_fraction": 0.0, "collator.truncation": "drop"}, rows=rows)
        with pytest.raises(DataRefused, match="no training row is left of 2: 2 over_max_length"):
            prepare(plan)

    def test_rows_without_an_answer_are_refused_when_the_plan_is_made(self, make_plan):
        with pytest.raises(AssertionError, match="is an empty assistant turn"):
            make_plan(rows=[chat("a", " ")])
        with pytest.raises(AssertionError, match="has no assistant turn"):
            make_plan(rows=[{"messages": [{"role": "user", "content": "a"}]}])


class TestReuse:
    def test_the_second_time_it_is_found(self, make_plan):
        plan = make_plan()
        first, second = prepare(plan), prepare(plan)
        assert second.reused
        assert second.report == first.report
        assert second.train[:] == first.train[:]

    @pytest.mark.parametrize(
        "changes",
        [
            {"optimizer.lr": 0.5},
            {"seed": 8},
            {"trainer.max_steps": 3},
            {"collator.pad_to_multiple": 16},
            {"data.workers": 2},
            {"data.max_cut_tokens": "50%", "data.max_overlap": 1},
        ],
        ids=str,
    )
    def test_what_does_not_reach_the_samples_does_not_prepare_again(self, make_plan, changes):
        before, after = make_plan(), make_plan(changes)
        assert after.stages["prepare"] == before.stages["prepare"]
        prepare(before)
        assert prepare(after).reused

    @pytest.mark.parametrize(
        "changes",
        [
            {"collator.turns": "last"},
            {"collator.truncation": "drop"},
            {"collator.packing": "best_fit"},
            {"collator.max_length": 48},
            {"tokenizer.chat_template": "zephyr"},
            {"data.split_seed": 8},
            {"data.max_train_rows": 5},
        ],
        ids=str,
    )
    def test_what_reaches_the_samples_prepares_again(self, make_plan, changes):
        before, after = make_plan(), make_plan(changes)
        assert after.stages["prepare"] != before.stages["prepare"]
        prepare(before)
        assert not prepare(after).reused

    def test_one_byte_of_the_file_prepares_again(self, make_plan):
        before = make_plan()
        prepare(before)
        path = Path(before.settings["data"]["train"])
        path.write_bytes(path.read_bytes().replace(b"12 comes", b"13 comes"))
        after = make_plan({"data.train": str(path)})
        assert after.stages["prepare"] != before.stages["prepare"]
        assert not prepare(after).reused

    def test_a_file_elsewhere_with_the_same_bytes_is_the_same_data(self, make_plan, tmp_path):
        before = make_plan()
        prepare(before)
        copy = Path(before.settings["data"]["train"]).rename(tmp_path / "moved.jsonl")
        assert prepare(make_plan({"data.train": str(copy)})).reused

    def test_the_same_plan_makes_the_same_samples_anywhere(self, make_plan, tmp_path: Path):
        here = prepare(make_plan({"paths.cache": str(tmp_path / "a")}))
        there = prepare(make_plan({"paths.cache": str(tmp_path / "b")}))
        assert here.train[:] == there.train[:]
        assert here.evaluation is not None
        assert there.evaluation is not None
        assert here.evaluation[:] == there.evaluation[:]

    @pytest.mark.parametrize(
        "damage", ["manifest.json", "train.arrow", "report.json", "tokenizer/tokenizer.json"]
    )
    def test_a_damaged_folder_is_made_again(self, make_plan, damage):
        plan = make_plan()
        first = prepare(plan)
        samples = first.train[:]
        target = first.folder / damage
        del first
        raw = bytearray(target.read_bytes())
        raw[len(raw) // 2] ^= 1
        target.write_bytes(bytes(raw))
        again = prepare(plan)
        assert not again.reused
        assert again.train[:] == samples

    def test_a_preparation_that_fails_leaves_nothing_behind(self, make_plan, tmp_path: Path):
        plan = make_plan({"tokenizer.source": str(tmp_path)})
        with pytest.raises(BuildError, match=r"while building `tokenizer` \(conf/tokenizer"):
            prepare(plan)
        assert [name for name in folder_names(plan) if not name.endswith(".lock")] == []


class TestChangedFiles:
    def test_a_file_that_changed_since_the_plan_is_refused(self, make_plan):
        plan = make_plan()
        path = Path(plan.settings["data"]["train"])
        path.write_text(path.read_text().replace("comes", "cOmes"))
        with pytest.raises(DataChanged, match=r"train\.jsonl is not the file the plan was made"):
            prepare(plan)

    def test_a_file_that_is_gone_is_named(self, make_plan):
        plan = make_plan()
        Path(plan.settings["data"]["train"]).unlink()
        with pytest.raises(DataChanged, match=r"train\.jsonl.* No such file"):
            prepare(plan)

    def test_what_was_prepared_before_needs_the_file_no_more(self, make_plan):
        plan = make_plan()
        prepare(plan)
        Path(plan.settings["data"]["train"]).unlink()
        assert prepare(plan).reused

    def test_paths_are_taken_from_the_working_folder(self, make_plan, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "near.jsonl").write_text(json.dumps(chat("a", "b")) + "\n")
        plan = make_plan({"data.train": "near.jsonl", "data.eval_fraction": 0.0})
        assert len(prepare(plan).train) == 1


WORKER = """
import os, signal, sys, time
from llmforge.plan import Plan
from llmforge.build import arrow, tokenize, tokenizer  # slow, so before the start
from llmforge.stages import prepare as stage
may_start, shared, own = sys.argv[1:]
if may_start == "die":  # in the middle, as a killed process does
    write = arrow.Side.write
    def die(*args):
        write(*args)
        os.kill(os.getpid(), signal.SIGKILL)
    arrow.Side.write = die
while not os.path.exists(may_start):
    time.sleep(0.01)
reused = stage.prepare(Plan.load(shared)).reused
stage.prepare(Plan.load(own))
print(reused)
"""


def test_a_killed_preparation_and_two_at_once(make_plan, tmp_path: Path):
    plan, elsewhere = make_plan(), make_plan({"paths.cache": str(tmp_path / "elsewhere")})
    files = [plan.save(tmp_path / "shared.json"), elsewhere.save(tmp_path / "own.json")]
    killed, other = (
        subprocess.Popen(
            [sys.executable, "-c", WORKER, may_start, *map(str, files)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for may_start in ("die", "go")
    )
    (tmp_path / "die").touch()
    assert killed.wait(100) == -signal.SIGKILL
    name = plan.stages["prepare"][:16]
    assert folder_names(plan) == [f".{name}.{killed.pid}.tmp", f"{name}.lock"]

    (tmp_path / "go").touch()
    here = prepare(plan)
    told = other.communicate(timeout=100)[0].split()[-1]
    assert told == str(not here.reused), "one makes it, the other waits and takes it"
    assert folder_names(plan) == [name, f"{name}.lock"], "what the killed one left is gone"

    there, again = prepare(elsewhere), prepare(make_plan({"paths.cache": str(tmp_path / "third")}))
    assert (there.reused, again.reused) == (True, False)
    assert again.train[:] == there.train[:]
    for file in again.tokenizer_folder.iterdir():  # trained alike in both processes
        assert file.read_bytes() == (there.tokenizer_folder / file.name).read_bytes()
