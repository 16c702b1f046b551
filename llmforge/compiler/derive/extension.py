"""Components of the user's own that a run chooses: their code enters the fingerprints.

In: the spec. Out: the digest of each one's source in the facts' identity, under `components`, and
what is wrong with it (LF124, LF125).

Shipped components are not looked at: `plan.CODE_VERSION` stands for them.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmforge import registry
from llmforge.compiler.context import Context, Step
from llmforge.compiler.facts.components import look_at_component
from llmforge.diagnostics import Diagnostic
from llmforge.registry import Component
from llmforge.schema import SECTIONS, SINGLE, RunSpec
from llmforge.schema.extension import NAMED


def probe_components(context: Context) -> Step:
    """Source and class of every component of the user's own that the settings choose."""
    digests: dict[str, str] = {}
    found: list[Diagnostic] = []
    for place, component in own_components(context.spec):
        look = look_at_component(component, f"{place}.kind")
        found += look.diagnostics
        if look.digest is not None:
            digests[place] = look.digest
    if not digests:
        return Step(diagnostics=tuple(found))
    identity = {**context.facts.identity, "components": digests}
    return Step(facts={"identity": identity}, diagnostics=tuple(found))


def own_components(spec: RunSpec) -> Iterator[tuple[str, Component]]:
    """Place in the settings (`trainer`, `callbacks.counter`) and component."""
    for section in SECTIONS:
        if section in registry.OPEN and section not in SINGLE:
            yield from _own(section, section, str(getattr(spec, section).kind))
    for key, section in NAMED.items():
        for name, chosen in getattr(spec, key).items():
            yield from _own(f"{key}.{name}", section, str(chosen.kind))


def _own(place: str, section: str, kind: str) -> Iterator[tuple[str, Component]]:
    component = registry.kinds(section).get(kind)
    if component is not None and component.is_own:
        yield place, component
