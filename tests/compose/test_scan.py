"""One file: values as OmegaConf reads them, lines, and faults of hostile or broken YAML."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llmforge.compose.scan import scan
from llmforge.compose.tree import plain


@pytest.fixture
def scanned(tmp_path):
    """Scan a text or bytes as a file."""

    def scanner(text):
        file = tmp_path / "file.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return scan(file)

    return scanner


def faults(found):
    return [(fault.code, fault.message, fault.line, fault.column) for fault in found.faults]


# ---------------------------------------------------------------- values


SCALARS = (
    "1 1.0 1e-4 2E5 1_000 0x1F 010 1:30 .5 .5e+3 -1 +1 1e4.5 .inf -.Inf .nan 2024-01-01 ~ null "
    "yes No on OFF true y 12e03 1.e5 '1' \"1e-4\" 1e 0b11 1__0 4bit 5GB 1.2.3 1,2"
)


@pytest.mark.parametrize("text", SCALARS.split())
def test_scalars_read_as_omegaconf_reads_them(scanned, text):
    assert repr(plain(scanned(f"a: {text}").tree)) == repr(OmegaConf.create(f"a: {text}"))


@given(st.from_regex(r"[-+]?[0-9._:eE+-]{1,12}", fullmatch=True))
def test_numbers_read_as_omegaconf_reads_them(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("scan") / "file.yaml"
    file.write_text(f"a: {text}\n")
    try:
        expected = repr(OmegaConf.create(f"a: {text}"))
    except (yaml.YAMLError, ValueError):
        assert scan(file).faults
    else:
        assert repr(plain(scan(file).tree)) == expected


def test_every_key_knows_its_line(scanned):
    tree = scanned("a: 1\n\nb:\n  c: 2\n  d:\n    [1, 2]\n").tree
    assert (tree["a"].line, tree["b"].line) == (1, 3)
    assert (tree["b"].value["c"].line, tree["b"].value["d"].line) == (4, 5)
    assert tree["b"].value["d"].value == [1, 2]


def test_merge_keys_give_way_to_own_keys(scanned):
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3}\nc:\n  <<: [*a, *b]\n  x: 9\n"
    tree = scanned(text).tree
    assert plain(tree) == yaml.safe_load(text)
    assert tree["c"].value["y"].line == 1


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~\n", "{}"])
def test_an_empty_file_is_an_empty_config(scanned, text):
    assert (scanned(text).tree, scanned(text).faults) == ({}, ())


def test_a_byte_order_mark_is_no_content(scanned):
    assert plain(scanned("\ufeffa: 1".encode()).tree) == {"a": 1}


def test_a_changed_file_is_read_again(scanned):
    assert plain(scanned("a: 1").tree) == {"a": 1}
    assert plain(scanned("a: 22").tree) == {"a": 22}


# ---------------------------------------------------------------- LF107


def test_syntax_error_has_place_and_excerpt(draft, only, write):
    write({"lora/default.yaml": "kind: lora\nr: [1, 2\nalpha: 3\n"})
    found = only(draft("lora=default"), "LF107")
    assert found.message == "did not find expected ',' or ']' in conf/lora/default.yaml:3:6"
    assert found.notes == ("line 3: alpha: 3",)
    assert found.origins[0].place == "conf/lora/default.yaml:3"


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "12\n"])
def test_a_file_that_is_not_a_mapping(scanned, text):
    assert faults(scanned(text)) == [("LF107", "no mapping of keys to values", 1, 1)]
    assert not scanned(text).usable


def test_bytes_that_are_not_utf8(scanned):
    assert faults(scanned(b"a: 1\nb: \xff\xfe\n")) == [("LF107", "byte 8 is not UTF-8", 2, None)]


def test_control_characters(scanned):
    [(code, message, line, _)] = faults(scanned("a: 1\nb: \x01\n"))
    assert (code, message, line) == ("LF107", "control characters are not allowed", 2)


def test_two_documents(scanned):
    [(code, _, line, _)] = faults(scanned("a: 1\n---\nb: 2\n"))
    assert (code, line) == ("LF107", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", "tag `!!python/object/apply:os.system`"),
        ("a: !!binary aGVsbG8=", "tag `!!binary`"),
        ("a: !!timestamp 2024-01-01", "tag `!!timestamp`"),
        ("a: !!set {x}", "tag `!!set`"),
        ("a: !mine x", "tag `!mine`"),
        ("a: !!int x", "`x` is not a `!!int`"),
        ("a: " + "9" * 5000, "`" + "9" * 40 + "` is not a `!!int`"),
        ("? [1, 2]\n: 3", "a key must be text or a number"),
        ("~: 3", "a key must be text or a number"),
        ("a: {<<: 3}", "`<<` takes a mapping or a list of mappings"),
        ("# @package\na: 1", "a header reads `# @package name`"),
        ("defaults: small", "`defaults` must be a list such as `[base, _self_]`"),
        ("defaults: [3]", "defaults entry `3` is neither `option` nor `group: option`"),
        ("defaults: [{a: 1, b: 2}]", "defaults entry `{'a': 1, 'b': 2}` is neither"),
        ("x: &x {defaults: [a]}\n<<: *x", "`defaults` cannot come from a `<<` merge"),
    ],
)
def test_what_a_config_file_cannot_hold(scanned, text, message):
    [fault] = scanned(text).faults
    assert fault.code == "LF107"
    assert fault.message.startswith(message)


def test_an_option_that_yaml_reads_as_a_boolean(scanned):
    [fault] = scanned("defaults:\n  - quantization: off\n").faults
    assert (fault.line, fault.column) == (2, 5)
    assert "quote the option" in fault.message


# ---------------------------------------------------------------- LF108


def test_duplicate_key_names_both_lines(draft, only, write):
    write({"lora/default.yaml": "kind: lora\nr: 1\nalpha: 2\nr: 3\n"})
    found = only(draft("lora=default"), "LF108")
    assert (found.key, found.message) == (
        "lora.r",
        "duplicate key `r` in conf/lora/default.yaml:4:1",
    )
    assert found.notes == ("line 4: r: 3", "line 2 sets it first, line 4 sets it again")


def test_duplicates_are_found_at_every_depth(scanned):
    found = scanned("a: {b: 1, b: 2}\nc: [{d: 1, d: 2}]\n1: x\n1: y\n").faults
    assert [(fault.code, fault.path) for fault in found] == [
        ("LF108", ("a", "b")),
        ("LF108", ("c", 0, "d")),
        ("LF108", (1,)),
    ]


def test_overriding_a_merged_key_is_no_duplicate(scanned):
    assert scanned("a: &a {x: 1}\nb:\n  <<: *a\n  x: 2\n").faults == ()


# ---------------------------------------------------------------- LF109

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 50000 values once aliases are expanded"),
        ("a: &a [*a]", "alias `*a` contains itself"),
        ("a: &a {b: {c: *a}}", "alias `*a` contains itself"),
        ("a: &a 1\nb: [" + "*a, " * 101 + "]", "more than 100 aliases"),
        ("a: " + "[" * 65 + "]" * 65, "nesting deeper than 64 levels"),
        ("a: " + "[" * 1_000_000, "nesting deeper than 64 levels"),
        ("- " * 100_000 + "x", "nesting deeper than 64 levels"),
        (
            "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40,
            "nesting deeper than 64 levels",
        ),
        ("a: 1\n" * 100_000, "more than 50000 values once aliases are expanded"),
        ("a: " + "x" * (1 << 20), f"file of {(1 << 20) + 3} bytes is over {1 << 20}"),
        ("a: '" + "${b}" * 2000 + "'", "interpolation longer than 4096 characters"),
    ],
    ids=lambda value: value[:24],
)
def test_hostile_files_are_refused_within_a_second(scanned, text, message):
    started = time.process_time()
    [fault] = scanned(text).faults
    assert time.process_time() - started < 1
    assert (fault.code, fault.message) == ("LF109", message)


def test_a_bomb_is_refused_before_omegaconf_sees_it(draft, only, write, codes):
    write({"lora/default.yaml": BOMB})
    started = time.process_time()
    found = draft("lora=default")
    assert time.process_time() - started < 1
    assert only(found, "LF109").origins[0].where == "conf/lora/default.yaml"
    assert codes(draft("lora=default", "trainer.micro_bach=4")) == ["LF101", "LF109"]


def test_ordinary_aliases_are_fine(scanned):
    found = scanned("a: &a [1, 2]\nb: *a\nc: {d: *a}\n")
    assert found.faults == ()
    assert plain(found.tree) == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}


def test_sixty_four_levels_are_allowed(scanned):
    assert scanned("a: " + "[" * 63 + "]" * 63).faults == ()


def test_only_files_of_the_composition_are_read(draft, write, codes):
    write({"lora/broken.yaml": "a: [", "other/broken.yaml": "a: ["})
    assert codes(draft("lora=small")) == []


def test_a_broken_section_does_not_cause_follow_up_findings(draft, write, codes):
    write({"lora/default.yaml": "r: [", "trainer/default.yaml": "micro_batch: ${lora.r}\n"})
    assert codes(draft("lora=default", "lora.r=3")) == ["LF107"]
