"""Rules of adapters: what is refused, what is not, and that every hint is then accepted."""

from __future__ import annotations

import pytest

from llmforge.compiler.rules.adapter import (
    adapter_over_random_weights,
    lora_targets_hit_too_few,
    modules_to_save,
    roles_of_unknown_model,
    targets_hit_others,
)
from llmforge.compiler.rules.adapter_kinds import (
    adalora_phases,
    kind_with_engine,
    preset_of_another_width,
    start_impossible,
    virtual_tokens_without_room,
)
from llmforge.compiler.rules.tokens import new_tokens_frozen
from llmforge.compiler.rules.training import smoothing_drops_a_term

TINY = ("model=folder", "model.path=tiny")
TIED = {"model.tie_embeddings": True}


def said(rule, context):
    return [finding.message for finding in rule(context)]


def hints(rule, context):
    return [finding.hint for finding in rule(context)]


class TestTargets:
    @pytest.mark.parametrize(
        ("targets", "message", "hint"),
        [
            (["q_proj", "vproj"], "`vproj` names no module", "'lora.targets=[q_proj,v_proj]'"),
            (["c_attn"], "`c_attn` names no module", "lora.targets=all-linear"),
            (".*c_attn", "names no module", "lora.targets=all-linear"),
            ([], "LoRA has no targets", "lora.targets=all-linear"),
            ("*_proj", "is not a regular expression", "lora.targets=all-linear"),
            ("role:attntion", "`attntion` is no role", "lora.targets=all-linear"),
            ("role:", "`` is no role", "lora.targets=all-linear"),
        ],
    )
    def test_what_hits_nothing(self, targets, message, hint, solved):
        found = list(
            lora_targets_hit_too_few(solved(*TINY, "lora=small", {"lora.targets": targets}))
        )
        assert [message in f.message for f in found] == [True]
        assert found[0].hint == hint

    def test_a_role_that_this_family_lacks(self, solved):
        """OPT has no gate; what is left of the target is the hint."""
        context = solved("lora=small", {"lora.targets": "role:gate+up", "model.family": "opt"})
        assert said(lora_targets_hit_too_few, context) == [
            "LoRA target `role:gate` names no module of this model"
        ]
        assert hints(lora_targets_hit_too_few, context) == ["lora.targets=role:up"]

    @pytest.mark.parametrize(
        "targets",
        [
            "all-linear",
            "ALL-LINEAR",
            "role:attention",
            "role:gate+down",
            ["q_proj"],
            r".*\.1\..*_proj",
        ],
    )
    def test_what_hits_something(self, targets, solved):
        context = solved(*TINY, "lora=small", {"lora.targets": targets})
        assert said(lora_targets_hit_too_few, context) == []
        assert said(targets_hit_others, context) == []

    @pytest.mark.parametrize(("expected", "refused"), [(4, False), (5, True)])
    def test_fewer_than_expected(self, expected, refused, solved):
        context = solved(
            *TINY, "lora=small",
            {"lora.targets": "role:query+value", "lora.expect_modules": expected},
        )  # fmt: skip
        wanted = ["LoRA targets hit 4 modules; at least 5 were expected"] if refused else []
        assert said(lora_targets_hit_too_few, context) == wanted

    def test_ia3_scales_inputs_of_its_own_targets(self, solved):
        context = solved(*TINY, "lora=ia3", {"lora.feedforward": "role:up"})
        assert said(lora_targets_hit_too_few, context) == [
            "lora.feedforward names modules that lora.targets does not"
        ]
        assert said(lora_targets_hit_too_few, solved(*TINY, "lora=ia3")) == []

    @pytest.mark.parametrize(
        ("targets", "kind"),
        [
            (["norm"], "the norm `model.norm`"),
            (["embed_tokens"], "the embedding `model.embed_tokens`"),
            (["self_attn"], "the block `model.layers.0.self_attn` and 1 more"),
            (r"model\.layers\.0\..*", "the block `model.layers.0.self_attn` and 3 more"),
        ],
    )
    def test_what_is_no_linear_module(self, targets, kind, solved):
        context = solved(*TINY, "lora=small", {"lora.targets": targets})
        assert said(targets_hit_others, context) == [
            f"LoRA targets hit {kind}; only linear modules take one"
        ]
        assert said(lora_targets_hit_too_few, context) == [], "one finding says it"

    @pytest.mark.parametrize(("tied", "refused"), [(True, True), (False, False)])
    @pytest.mark.parametrize("targets", [["q_proj", "lm_head"], "role:head+mlp"])
    def test_the_head_of_a_tied_model(self, tied, refused, targets, solved):
        context = solved("lora=small", {"lora.targets": targets, "model.tie_embeddings": tied})
        assert bool(said(targets_hit_others, context)) is refused

    @pytest.mark.parametrize(
        ("targets", "refused"), [("role:mlp", True), ("all-linear", False), (["q_proj"], False)]
    )
    def test_roles_need_the_architecture(self, targets, refused, solved):
        hub = ("model=hub", "model.id=example/none")
        context = solved(*hub, "lora=small", {"lora.targets": targets})
        assert bool(said(roles_of_unknown_model, context)) is refused


class TestTrainedWhole:
    @pytest.mark.parametrize(
        ("names", "message", "hint"),
        [
            (["embedding"], "`embedding` is the end of no", "'lora.modules_to_save=[]'"),
            (["lm_head", "q_proj"], "`q_proj` is adapted", "'lora.modules_to_save=[lm_head]'"),
            (["layers.0"], "`layers.0` is adapted", "'lora.modules_to_save=[]'"),
        ],
    )
    def test_refused(self, names, message, hint, solved):
        found = list(modules_to_save(solved(*TINY, "lora=small", {"lora.modules_to_save": names})))
        assert [message in f.message for f in found] == [True]
        assert found[0].hint.strip("'") == hint.strip("'")

    @pytest.mark.parametrize("names", [[], ["lm_head"], ["embed_tokens", "lm_head"], ["norm"]])
    def test_accepted(self, names, solved):
        context = solved(*TINY, "lora=small", {"lora.modules_to_save": names})
        assert said(modules_to_save, context) == []

    def test_a_quantized_weight(self, solved):
        changes = {"lora.targets": ["q_proj"], "lora.modules_to_save": ["v_proj"]}
        assert said(modules_to_save, solved(*TINY, "lora=small", changes)) == []
        assert said(modules_to_save, solved(*TINY, "lora=small", "quantization=4bit", changes)) == [
            "`v_proj` is quantized and cannot be trained whole"
        ]

    @pytest.mark.parametrize(
        ("option", "refused"),
        [("small", False), ("adalora", False), ("vera", True), ("ia3", True)],
    )
    def test_kinds_that_keep_a_tie(self, option, refused, solved):
        changes = {"lora.modules_to_save": ["embed_tokens"], **TIED}
        assert bool(said(modules_to_save, solved(f"lora={option}", changes))) is refused

    @pytest.mark.parametrize(
        ("tied", "saved", "refused"),
        [
            (False, [], True),
            (False, ["embed_tokens"], True),
            (False, ["embed_tokens", "lm_head"], False),
            (True, [], True),
            (True, ["embed_tokens"], False),
        ],
    )
    def test_new_tokens_need_a_trained_embedding(
        self, tied, saved, refused, solved, bench, checkpoint
    ):
        name = f"vocabulary-{tied}"
        checkpoint(bench / name, vocab_size=1024, tie_word_embeddings=tied)
        context = solved(
            "model=folder", f"model.path={name}", "tokenizer=train", "lora=small",
            {"lora.modules_to_save": saved},
        )  # fmt: skip
        assert bool(said(new_tokens_frozen, context)) is refused

    def test_the_checkpoints_own_tokenizer_has_no_new_tokens(self, solved):
        assert said(new_tokens_frozen, solved(*TINY, "lora=small")) == []
        assert said(new_tokens_frozen, solved("lora=small")) == [], "from scratch, LF604 says it"


@pytest.mark.parametrize("option", ["small", "eva", "vera", "adalora", "ia3", "prompt", "prefix"])
def test_every_kind_over_random_weights_is_told(option, solved):
    assert len(said(adapter_over_random_weights, solved(f"lora={option}"))) == 1
    assert said(adapter_over_random_weights, solved(*TINY, f"lora={option}")) == []


class TestWidth:
    @pytest.mark.parametrize(
        ("option", "quantization", "hint"),
        [
            ("4bit_s", "none", "quantization=4bit"),
            ("4bit_s", "8bit", "quantization=4bit"),
            ("8bit_l", "4bit", "quantization=8bit"),
            ("8bit_l", "none", "quantization=8bit"),
        ],
    )
    def test_refused(self, option, quantization, hint, solved):
        context = solved(*TINY, f"lora={option}", f"quantization={quantization}")
        assert hints(preset_of_another_width, context) == [hint]

    @pytest.mark.parametrize(
        ("option", "quantization"),
        [("4bit_s", "4bit"), ("4bit_s", "4bit_fp4"), ("8bit_s", "8bit"), ("small", "4bit"),
         ("small", "none")],
    )  # fmt: skip
    def test_accepted(self, option, quantization, solved):
        context = solved(*TINY, f"lora={option}", f"quantization={quantization}")
        assert said(preset_of_another_width, context) == []

    def test_any_base_if_that_is_said(self, solved):
        context = solved(*TINY, "lora=4bit_s", {"lora.expect_bits": None})
        assert said(preset_of_another_width, context) == []


class TestStart:
    @pytest.mark.parametrize("init", ["pissa", "olora"])
    @pytest.mark.parametrize("quantization", ["4bit", "8bit"])
    def test_parts_of_a_rounded_weight(self, init, quantization, solved):
        context = solved(*TINY, f"lora={init}", f"quantization={quantization}")
        assert said(start_impossible, context) == [f"{init} cannot start from a quantized base"]
        assert hints(start_impossible, context) == ["quantization=none"]

    @pytest.mark.parametrize("init", ["pissa", "olora", "loftq"])
    def test_dora(self, init, solved):
        context = solved(*TINY, f"lora={init}", {"lora.dora": True})
        assert said(start_impossible, context) == [f"{init} cannot start with DoRA"]

    @pytest.mark.parametrize("init", ["pissa", "olora"])
    def test_random_weights(self, init, solved):
        assert hints(start_impossible, solved(f"lora={init}")) == ["lora.init=default"]

    @pytest.mark.parametrize(("quantization", "refused"), [("none", 1), ("8bit", 1), ("4bit", 0)])
    def test_loftq_undoes_four_bit_rounding(self, quantization, refused, solved):
        context = solved(*TINY, "lora=loftq", f"quantization={quantization}")
        assert len(said(start_impossible, context)) == refused

    @pytest.mark.parametrize("option", ["pissa", "olora", "eva"])
    @pytest.mark.parametrize(("rank", "hint"), [(16, []), (17, ["lora.r=16"])])
    def test_rank_above_the_weights_own(self, option, rank, hint, solved):
        context = solved(*TINY, f"lora={option}", {"lora.r": rank})
        assert hints(start_impossible, context) == hint

    @pytest.mark.parametrize(("rank", "hint"), [(8, []), (7, ["lora.r=8"])])
    def test_orthogonal_ranks_are_even(self, rank, hint, solved):
        changes = {"lora.init": "orthogonal", "lora.r": rank}
        assert hints(start_impossible, solved(*TINY, "lora=small", changes)) == hint

    def test_a_plain_start_takes_any_rank(self, solved):
        assert said(start_impossible, solved(*TINY, "lora=small", {"lora.r": 999})) == []


RUN = {"trainer.epochs": None, "trainer.max_steps": 100}


class TestAllocation:
    @pytest.mark.parametrize(
        ("changes", "hint"),
        [
            ({}, []),
            ({"lora.warmup": 50, "lora.final": 50}, ["lora.warmup=10% lora.final=20%"]),
            ({"lora.warmup": "60%", "lora.final": "60%"}, ["lora.warmup=10% lora.final=20%"]),
            ({"lora.interval": 71}, ["lora.interval=7"]),
            ({"lora.interval": 70}, []),
            ({"lora.target_r": 13}, ["lora.target_r=12"]),
            ({"lora.target_r": 12}, []),
        ],
    )
    def test_phases(self, changes, hint, solved):
        context = solved(*TINY, "lora=adalora", {**RUN, **changes})
        assert hints(adalora_phases, context) == hint


class TestEngines:
    TWO = ("hardware=h200", {"hardware.count": 2}, "launch=torchrun")

    @pytest.mark.parametrize(
        ("option", "engine", "refused"),
        [
            ("small", "deepspeed=stage3", False),
            ("adalora", "deepspeed=stage1", True),
            ("adalora", "fsdp=full_shard", True),
            ("pissa", "deepspeed=stage2", False),
            ("pissa", "deepspeed=stage3", True),
            ("eva", "fsdp=full_shard", True),
            ("prompt", "deepspeed=stage3", True),
            ("prompt", "deepspeed=stage2", False),
            ("vera", "fsdp=full_shard", False),
        ],
    )
    def test_sharding(self, option, engine, refused, solved):
        context = solved(*TINY, *self.TWO, f"lora={option}", engine)
        section = engine.partition("=")[0]
        assert hints(kind_with_engine, context) == ([f"{section}=none"] if refused else [])

    @pytest.mark.parametrize("option", ["prompt", "prefix"])
    def test_virtual_tokens_stand_before_one_text(self, option, solved):
        context = solved(*TINY, f"lora={option}", "collator=packed")
        assert hints(kind_with_engine, context) == ["collator.packing=none"]
        assert hints(kind_with_engine, solved(*TINY, "lora=small", "collator=packed")) == []

    @pytest.mark.parametrize(("option", "refused"), [("prefix", True), ("prompt", False)])
    def test_recomputing_drops_a_prefix(self, option, refused, solved):
        changes = {"trainer.gradient_checkpointing": True}
        context = solved(*TINY, f"lora={option}", changes)
        assert bool(said(kind_with_engine, context)) is refused

    @pytest.mark.parametrize(
        ("kernel", "hint"), [("full", ["trainer.loss_kernel=chunked"]), ("chunked", [])]
    )
    def test_adalora_adds_to_the_models_own_loss(self, kernel, hint, solved):
        smoothed = {"trainer.label_smoothing": 0.1, "trainer.loss_kernel": kernel}
        context = solved(*TINY, "lora=adalora", smoothed)
        assert hints(smoothing_drops_a_term, context) == hint
        assert hints(kind_with_engine, context) == []

    @pytest.mark.parametrize(
        ("device", "bits", "refused"),
        [("cpu", 8, True), ("cpu", 4, False), ("h200", 8, False)],
    )
    def test_dora_over_eight_bits(self, device, bits, refused, solved):
        context = solved(*TINY, f"hardware={device}", "lora=dora", f"quantization={bits}bit")
        assert bool(said(kind_with_engine, context)) is refused

    @pytest.mark.parametrize(
        ("length", "tokens", "hint"),
        [(44, 20, []), (45, 20, ["collator.max_length=44"]), (16, 60, ["lora.tokens=16"])],
    )
    def test_virtual_tokens_need_room(self, length, tokens, hint, solved):
        changes = {"collator.max_length": length, "lora.tokens": tokens}
        context = solved(*TINY, "lora=prompt", changes)
        assert hints(virtual_tokens_without_room, context) == hint
