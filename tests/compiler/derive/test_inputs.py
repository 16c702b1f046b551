"""What follows from model and data: tokenizer, vocabulary, collator, longest sample."""

from __future__ import annotations

import pytest

from llmforge.compiler.derive.inputs import derive_tokenizer, derive_vocabulary, probe_model
from llmforge.origins import Origins

QA = ("data=jsonl", "data.train=qa.jsonl", "data.fields.prompt=question",
      "data.fields.completion=answer")  # fmt: skip
TINY = ("model=folder", "model.path=tiny")


@pytest.mark.parametrize(
    ("options", "source", "vocabulary"),
    [
        ((), "train", 1024),
        (("tokenizer.vocabulary=512",), "train", 512),
        (("tokenizer.vocabulary=512", "model.vocabulary=600"), "train", 600),
        (TINY, "model", 300),
        ((*TINY, "tokenizer=train", "tokenizer.vocabulary=260"), "train", 300),
    ],
)
def test_tokenizer_and_embedding_fit(options, source, vocabulary, solved):
    context = solved(*options)

    assert context.spec.tokenizer.source == source
    assert context.facts.model.vocabulary == vocabulary


@pytest.mark.parametrize(
    ("options", "collator"),
    [
        ((), "chat"),
        (QA, "completion"),
        ((*QA, "data.shape=text", "data.fields.text=answer"), "lm"),
        (("collator=lm",), "lm"),
    ],
)
def test_collator_of_the_rows_shape(options, collator, solved):
    assert solved(*options).spec.collator.kind == collator


def test_chat_takes_the_turns_over(solved):
    assert solved("collator.turns=last").spec.collator.turns == "last"


@pytest.mark.parametrize(
    ("options", "longest"),
    [
        ((), 256),  # the model's context
        (("model.context=8192",), 2048),
        (TINY, 64),
        (("collator.max_length=100",), 100),
        (("model=hub", "model.id=example/none"), 2048),  # not known
    ],
)
def test_longest_sample(options, longest, solved):
    assert solved(*options).spec.collator.max_length == longest


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((*TINY, "tokenizer.source=model"), "tiny holds no tokenizer"),
        (TINY, "tiny holds no tokenizer"),
        (("tokenizer.source=model",), "a model from scratch has no tokenizer of its own"),
        (("tokenizer.source=tiny",), "tiny is not a folder with a tokenizer"),
        ((*TINY, "tokenizer=train", "tokenizer.vocabulary=260"), None),
        (("model=folder", "model.path=nowhere"), None),  # told of the model
    ],
)
def test_tokenizer_that_is_not_there(options, told, unsolved, bench, checkpoint, work):
    checkpoint(work / "tiny")
    (work / "tiny/tokenizer.json").unlink()
    (work / "tiny/tokenizer_config.json").write_text("{}")
    context = unsolved(*options)
    for function in (derive_tokenizer, derive_vocabulary):
        context = context.apply(function(context), "", Origins())

    found = [d.message for d in probe_model(context).diagnostics if d.code == "LF607"]

    assert found == ([told] if told else [])


def test_digests_stand_for_what_paths_name(solved, bench):
    from hashlib import sha256

    identity = solved(*TINY, *QA).facts.identity

    digest = sha256((bench / "qa.jsonl").read_bytes()).hexdigest()
    assert identity["data"]["data"]["train"] == [digest]
    assert set(identity["model"]) == {"config.json", "model.safetensors"}
