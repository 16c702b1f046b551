"""What is shown of a sample is what the collator gives the model."""

from __future__ import annotations

import pytest

from llmforge.build.parts import data_collator
from llmforge.build.preview import Shown, preview
from llmforge.build.sample import IGNORED
from llmforge.build.tokenizer import open_tokenizer
from llmforge.stages.prepare import prepare


@pytest.fixture
def show(make_plan):
    """`show({...}, count=3)`: the samples shown, with prepared data, collator and tokenizer."""

    def run(changes=None, count=3, seed=0):
        plan = make_plan({"data.eval_fraction": 0.0, **(changes or {})})
        prepared = prepare(plan)
        tokenizer = open_tokenizer(prepared.tokenizer_folder)
        collator, samples = data_collator(plan, tokenizer), prepared.training_set()
        return preview(samples, collator, tokenizer, count, seed), samples, collator, tokenizer

    return run


def text_of(item: Shown, *states: str) -> str:
    return "".join(piece for piece, state in item.pieces if state in states)


@pytest.mark.parametrize("side", ["right", "left"])
def test_questions_are_masked_and_answers_trained(show, side):
    for item in show({"tokenizer.padding_side": side})[0]:
        number = text_of(item, "trained").split()[0]
        assert text_of(item, "trained").startswith(f"{number} comes after ")
        assert "What comes after" in text_of(item, "masked")
        assert "What comes after" not in text_of(item, "trained")
        if item.padding:
            padding = item.pieces[-1 if side == "right" else 0]
            assert padding[1] == "padding"


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_every_token_is_shown_in_its_state(show, side, packing):
    changes = {"tokenizer.padding_side": side, "collator.packing": packing,
               "collator.max_length": 128, "collator.pad_to_multiple": 16}  # fmt: skip
    shown, samples, collator, tokenizer = show(changes, count=1000)
    assert len(shown) == len(samples)
    for number, item in enumerate(shown):
        sample = samples[number]
        batch = collator([sample])
        width = batch["input_ids"].shape[1]
        assert item.trained == int((batch["labels"] != IGNORED).sum())
        assert item.trained + item.masked == sample["length"]
        assert item.padding == width - sample["length"]
        whole = tokenizer.decode(sample["input_ids"])
        assert text_of(item, "trained", "masked").replace("⏐", "") == whole
        pads = tokenizer.decode([tokenizer.pad_token_id] * item.padding)
        assert text_of(item, "padding") == pads


@pytest.mark.parametrize("side", ["right", "left"])
def test_packed_samples_are_marked_where_they_begin(show, side):
    changes = {"collator.packing": "best_fit", "collator.max_length": 128,
               "tokenizer.padding_side": side}  # fmt: skip
    shown, samples, _, tokenizer = show(changes, count=1000)
    for number, item in enumerate(shown):
        segments = samples[number]["segments"]
        assert item.title == f"pack {number} of {len(segments)} samples"
        marked = text_of(item, "trained", "masked").split("⏐")[1:]
        ids, place = samples[number]["input_ids"], 0
        assert len(marked) == (len(segments) if len(segments) > 1 else 0)
        for text, length in zip(marked, segments, strict=True):
            assert text == tokenizer.decode(ids[place : place + length])
            place += length
    assert any(len(samples[number]["segments"]) > 1 for number in range(len(samples)))


def test_the_seed_chooses_and_the_order_is_that_of_the_data(show):
    titles = [[item.title for item in show(count=4, seed=seed)[0]] for seed in (1, 1, 2)]
    assert titles[0] == titles[1] != titles[2]
    numbers = [int(title.split()[1]) for title in titles[0]]
    assert numbers == sorted(set(numbers))
