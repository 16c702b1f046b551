"""No dead keys: whatever may be set does something.

Small plans are carried out as a worker does it, and who reads which field is noted. A field that
nobody read there is changed, to values of other options, of its type or of `VALUES`; then something
else of the plan must change: a lowered argument, another setting, a fact, an estimate. Fields are
taken from the schema, so a new one is tried unasked, and fails by name if nothing comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from llmforge import registry
from llmforge.compiler.facts.versions import PACKAGES
from llmforge.plan import Plan
from llmforge.schema import SECTIONS, SINGLE

if TYPE_CHECKING:
    from dead_key_bases import Bases
    from dead_key_fields import Field
    from dead_key_reads import Reads

UNUSED = {"__annotations__": {"unused": int}, "__module__": __name__}
INSTALLED = "llmforge.compiler.derive.machine.installed_versions"


def is_read(field: Field, reads: Reads) -> bool:
    """Did a run read it, from this kind, or from any where all kinds go one way?"""
    from dead_key_tables import SHARED

    if field.owner.__name__ in SHARED:
        return any(issubclass(cls, field.owner) and name == field.name for cls, name in reads.seen)
    return (field.cls, field.name) in reads.seen


def is_effective(field: Field, bases: Bases) -> bool:
    """Does something else of the plan follow from it?"""
    from dead_key_effects import has_effect, value_at
    from dead_key_fields import candidates
    from dead_key_tables import VALUES

    values = bases(field)
    now = value_at(values, field.key)
    by_hand: Any = VALUES.get(field.own, [])
    given = [*(by_hand(now) if callable(by_hand) else by_hand), *bases.other_options(field)]
    others = candidates(field.annotation, now, given)
    with everything_installed(bases):
        return has_effect(values, field.key, field.cls, others)


@contextmanager
def everything_installed(bases: Bases) -> Iterator[None]:
    """In the bench folder, as if every optional package were there."""
    with chdir(bases.folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(INSTALLED, lambda: dict.fromkeys(PACKAGES, "99.0"))
        yield


def dead_among(found: Iterable[Field], bases: Bases, reads: Reads) -> list[Field]:
    """The fields that nobody reads and nothing follows from."""
    unread = [field for field in found if not is_read(field, reads)]
    return [field for field in unread if not is_effective(field, bases)]


@pytest.fixture(scope="module")
def dead(bases: Bases, reads: Reads) -> list[Field]:
    """All of them, exceptions among them."""
    from dead_key_fields import fields

    # what the extra gptq does is seen where it is installed
    seen = (each for each in fields() if find_spec("gptqmodel") or each.kind != "gptq")
    return dead_among(seen, bases, reads)


def test_every_field_does_something(dead: list[Field]) -> None:
    from dead_key_tables import CHECKED, DEAD

    unknown = [field for field in dead if field.own not in CHECKED and field.full not in DEAD]

    assert not [field.full for field in unknown], (
        "nobody reads these, and nothing follows from them"
    )


def test_the_exceptions_are_still_needed(dead: list[Field]) -> None:
    from dead_key_tables import CHECKED, DEAD

    names = {name for field in dead for name in (field.own, field.full)}

    assert {*CHECKED, *DEAD} <= names, "these do something now: take them out of the tables"


def test_what_is_lowered_is_taken_up(reads: Reads, compiled: Callable[..., Plan]) -> None:
    """A changed keyword is worth something where it arrives; keywords of a library are bound to
    its signature by `tests/compiler/test_lower_binding.py`, those of our own are read by name."""
    lowered = compiled("hardware=cpu").lowered
    own = {f"{part}.{name}" for part in ("parameter_groups", "clipping") for name in lowered[part]}

    assert {*lowered, *own} <= reads.lowered


def test_what_only_refuses_is_named_by_a_refusal(dead: list[Field], bases: Bases) -> None:
    from dead_key_effects import has_effect
    from dead_key_tables import CHECKED, REFUSED

    silent = []
    for field in (field for field in dead if field.own in CHECKED):
        words, others = REFUSED[field.own]
        with everything_installed(bases):
            values = bases(field, *words)
            if not has_effect(values, field.key, field.cls, others, with_rules=True):
                silent.append(field.full)

    assert not silent


def test_every_list_of_the_tables_is_about_fields_that_exist() -> None:
    from dead_key_fields import fields
    from dead_key_tables import BESIDES, CHECKED, DEAD, REFUSED, SHARED, VALUES

    known = {name for field in fields() for name in (field.own, field.full)}

    assert {*BESIDES, *VALUES, *CHECKED, *DEAD, *REFUSED} <= known
    assert set(SHARED) <= {field.owner.__name__ for field in fields()}


@pytest.mark.parametrize("section", [each for each in SECTIONS if each not in SINGLE])
def test_a_field_that_nothing_reads_is_found(
    section: str, bases: Bases, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One named `unused`, put into each kind in turn: neither proof may be fooled."""
    from dead_key_fields import fields
    from dead_key_tables import BESIDES

    known = registry.kinds(section)
    for kind, component in known.items():
        # of the package: fields of people's own components are all handed to their builders
        shipped = {**UNUSED, "__module__": component.spec.__module__}
        extended = type(component.spec.__name__, (component.spec,), shipped)
        changed = registry.Component(section, kind, extended, component.builder)
        monkeypatch.setitem(registry._components, section, {**known, kind: changed})
        name = f"{section}.unused ({kind})"
        monkeypatch.setitem(BESIDES, name, (f"{section}.unused=1",))
        [field] = [each for each in fields() if each.full == name]

        assert dead_among([field], bases, reads) == [field]
