"""Answers: prompts as training saw them, batches that change nothing, streams, stops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from llmforge.build.parts import build_parts
from llmforge.build.tokenizer import open_tokenizer
from llmforge.stages.generate import answer, complete, decode, prompt_ids
from llmforge.stages.prepare import prepare

GREEDY = {"max_new_tokens": 12}


@pytest.fixture
def parts_for(make_plan):
    def make(changes: dict[str, Any] | None = None, rows: Any = None):
        plan = make_plan(changes, rows)
        return build_parts(plan, prepare(plan))

    return make


def bias_towards(model: Any, *ids: int) -> None:
    """Make the model write these tokens one after the other, whatever it is asked."""

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        seen = hook.step  # type: ignore[attr-defined]
        output.logits[:, -1] = 0.0
        output.logits[:, -1, ids[min(seen, len(ids) - 1)]] = 10.0
        hook.step += 1  # type: ignore[attr-defined]
        return output

    hook.step = 0  # type: ignore[attr-defined]
    model.register_forward_hook(hook, with_kwargs=True)


class TestPrompts:
    def test_a_text_is_a_user_turn_for_a_chat_model(self, parts_for):
        tokenizer = parts_for().tokenizer
        assert tokenizer.decode(prompt_ids(tokenizer, "What comes after 1?")) == (
            "<|im_start|>user\nWhat comes after 1?<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_it_is_token_for_token_what_training_saw(self, parts_for, settings):
        parts = parts_for({"data.eval_fraction": 0.0})
        question = settings.CHATS[0][0]["content"]
        ids = prompt_ids(parts.tokenizer, question)
        sample = parts.train[0]
        assert sample["input_ids"][: len(ids)] == ids
        assert set(sample["labels"][: len(ids)]) == {-100}
        assert sample["labels"][len(ids)] != -100

    def test_messages_are_a_whole_talk(self, parts_for, settings):
        tokenizer = parts_for().tokenizer
        talk = [*settings.CHATS[0], {"role": "user", "content": "And then?"}]
        text = tokenizer.decode(prompt_ids(tokenizer, talk))
        assert text.endswith("And then?<|im_end|>\n<|im_start|>assistant\n")
        assert "1 comes after 0.<|im_end|>" in text

    def test_without_a_template_the_text_is_continued(self, llama_like):
        tokenizer = open_tokenizer(llama_like)
        ids = prompt_ids(tokenizer, "What comes ")
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == "What comes", "the space is the answer's"
        assert prompt_ids(tokenizer, "<s>What comes") == ids, "and there is one BOS"

    def test_a_talk_needs_a_template(self, llama_like, settings):
        with pytest.raises(ValueError, match="no chat template"):
            prompt_ids(open_tokenizer(llama_like), settings.CHATS[0])


class TestAnswers:
    def test_ends_at_the_end_of_turn(self, parts_for):
        parts = parts_for()
        yes = parts.tokenizer("after after", add_special_tokens=False)["input_ids"]
        bias_towards(parts.model, *yes, 3, *yes)
        assert answer(parts.model, parts.tokenizer, "What?", GREEDY) == "after after"

    def test_ends_after_the_longest_answer_allowed(self, parts_for):
        parts = parts_for()
        ids = prompt_ids(parts.tokenizer, "What?")
        bias_towards(parts.model, 40)
        [found] = complete(parts.model, parts.tokenizer, [ids], {"max_new_tokens": 5})
        assert found == [40] * 5

    def test_a_stream_gives_the_same_text(self, parts_for):
        parts = parts_for()
        bias_towards(
            parts.model, *parts.tokenizer("after after", add_special_tokens=False).input_ids
        )
        pieces: list[str] = []
        whole = answer(parts.model, parts.tokenizer, "What?", GREEDY, stream=pieces.append)
        assert "".join(pieces).strip() == whole
        assert len(pieces) > 1

    @pytest.mark.parametrize("family", ["llama", "gemma", "opt", "gpt2", "gpt_neo", "gpt_neox"])
    def test_a_batch_answers_as_one_by_one(self, parts_for, settings, checkpoint, family):
        parts = parts_for(settings.folder_model(checkpoint(family)))
        questions = ["a?", "What comes after 12, and what after that?", "What?", "b" * 30]
        prompts = [prompt_ids(parts.tokenizer, question) for question in questions]
        one_by_one = [complete(parts.model, parts.tokenizer, [p], GREEDY)[0] for p in prompts]
        assert complete(parts.model, parts.tokenizer, prompts, GREEDY, batch=4) == one_by_one
        assert complete(parts.model, parts.tokenizer, prompts, GREEDY, batch=3) == one_by_one
        assert all(one_by_one)

    def test_greedy_is_argmax_over_the_whole_text_again(self, parts_for):
        parts = parts_for()
        ids = prompt_ids(parts.tokenizer, "What?")
        [found] = complete(parts.model, parts.tokenizer, [ids], {"max_new_tokens": 4})
        text = list(ids)
        for _ in found:
            with torch.no_grad():
                text.append(parts.model(torch.tensor([text])).logits[0, -1].argmax().item())
        assert text[len(ids) :] == found

    def test_settings_a_checkpoint_brings_change_nothing(self, parts_for):
        parts = parts_for()
        plain = answer(parts.model, parts.tokenizer, "What?", GREEDY)
        own = GenerationConfig(
            do_sample=True, temperature=9.0, repetition_penalty=5.0, no_repeat_ngram_size=1
        )
        parts.model.generation_config = own
        assert answer(parts.model, parts.tokenizer, "What?", GREEDY) == plain
        assert parts.model.generation_config is own

    def test_sampling_follows_the_seed_and_the_temperature(self, parts_for):
        parts = parts_for()

        def draw(seed: int, **more: Any) -> str:
            torch.manual_seed(seed)
            settings = {"max_new_tokens": 20, "sample": True, "temperature": 1.0, "top_p": 1.0}
            return answer(parts.model, parts.tokenizer, "What?", settings | more)

        assert draw(1) == draw(1) != draw(2)
        greedy = answer(parts.model, parts.tokenizer, "What?", {"max_new_tokens": 20})
        assert draw(1, temperature=1e-4) == greedy
        assert draw(1, top_p=1e-6) == greedy

    def test_a_penalty_is_applied(self, parts_for):
        parts = parts_for()
        ids = prompt_ids(parts.tokenizer, "What?")
        settings = {"max_new_tokens": 20, "repetition_penalty": 50.0}
        [found] = complete(parts.model, parts.tokenizer, [ids], settings)
        assert len(set(found)) == len(found)

    def test_the_model_is_left_as_it_was(self, parts_for):
        parts = parts_for()
        parts.model.train()
        answer(parts.model, parts.tokenizer, "What?", GREEDY)
        assert parts.model.training

    def test_a_prompt_that_fills_the_context_is_refused(self, parts_for):
        parts = parts_for()
        with pytest.raises(ValueError, match=r"\d+ tokens and the model sees 128"):
            answer(parts.model, parts.tokenizer, "yes " * 200, GREEDY)

    def test_an_answer_ends_with_the_context(self, parts_for):
        parts = parts_for()
        bias_towards(parts.model, 40)
        [found] = complete(parts.model, parts.tokenizer, [[50] * 120], {"max_new_tokens": 64})
        assert len(found) == 8

    def test_nothing_to_continue(self, parts_for):
        parts = parts_for()
        with pytest.raises(ValueError, match="empty prompt"):
            complete(parts.model, parts.tokenizer, [[]], GREEDY)
        assert complete(parts.model, parts.tokenizer, [], GREEDY) == []


def test_decoding_leaves_out_marks_and_outer_space(parts_for):
    tokenizer = parts_for().tokenizer
    ids = tokenizer("\n 2 , 3 .<|im_end|>\n", add_special_tokens=False)["input_ids"]
    assert decode(tokenizer, ids) == "2 , 3 ."
