"""A record of what operations keep for their gradients, without doing them.

In: values known by count, format and whether a gradient flows through them. Out: `Tape.kept`, every
piece of memory that some operation keeps, counted once however many keep it. The rules are those of
PyTorch's autograd and autocast: a product keeps one factor when the other needs a gradient, a
linear map keeps its input only when its weight is trained, autocast makes a copy of every operand
in another format and remembers copies of trained weights only.

What a model does in which order is told in `activations_layers.py`. Nothing is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "bool": 1, "int64": 8}


@dataclass(eq=False)
class Storage:
    """One piece of memory; views of a tensor share it."""

    bytes: int
    shared: bool = False
    """Made once for all layers."""
    copy_of_weight: bool = False


@dataclass(eq=False)
class Values:
    """A tensor that is known but for its numbers."""

    count: int
    format: str
    grad: bool
    """Does a gradient flow through it?"""
    storage: Storage

    def part(self, count: int) -> Values:
        """A view of some of the numbers: keeping it keeps the whole."""
        return Values(count, self.format, self.grad, self.storage)


@dataclass(eq=False)
class Weight:
    """A parameter of the model; it is held anyway, so only copies of it are counted."""

    count: int
    format: str
    trained: bool


def size(count: int, format_: str) -> int:
    """Bytes of so many numbers."""
    return count * BYTES[format_]


def wider(one: str, other: str) -> str:
    """The format of a result from operands in two formats."""
    return one if one == other else "float32"


@dataclass
class Tape:
    """One forward pass."""

    compute: str
    """float32, or the format that autocast asks for."""
    cuda: bool = True
    """Kernels and autocast lists of CUDA; False: those of the CPU."""
    kept: dict[Storage, str] = field(default_factory=dict)
    """What is kept, by whom first."""
    pinned: dict[Storage, None] = field(default_factory=dict)
    """What is held by other means than autograd's, and so until the whole backward pass is over,
    checkpointing or not."""
    copies: dict[Weight, Storage] = field(default_factory=dict)
    """Copies of trained weights, which autocast holds until it ends, kept or not."""

    @property
    def autocast(self) -> bool:
        """The Trainer runs autocast for every format but float32."""
        return self.compute != "float32"

    # making and keeping

    def fresh(self, count: int, format_: str, grad: bool, shared: bool = False) -> Values:
        """A new tensor."""
        return Values(count, format_, grad, Storage(size(count, format_), shared))

    def like(self, values: Values, format_: str | None = None) -> Values:
        """The result of an operation that keeps nothing."""
        return self.fresh(values.count, format_ or values.format, values.grad)

    def keep(self, values: Values, name: str) -> None:
        """Keep values until the backward pass."""
        self.kept.setdefault(values.storage, name)

    def pin(self, values: Values, name: str) -> None:
        """Keep values until the backward pass has ended; checkpointing does not let them go."""
        self.keep(values, name)
        self.pinned[values.storage] = None

    def cast(self, values: Values, format_: str) -> Values:
        """Values in a format: themselves where they have it."""
        return values if values.format == format_ else self.like(values, format_)

    def lowered(self, values: Values) -> Values:
        """An operand as autocast hands it to a matrix product."""
        return self.cast(values, self.compute) if self.autocast else values

    def raised(self, values: Values) -> Values:
        """An operand of what autocast computes in float32 on CUDA: norms, powers, softmax."""
        return self.cast(values, "float32") if self.autocast and self.cuda else values

    def weight(self, weight: Weight) -> Storage | None:
        """The copy of a weight that a matrix product uses; None: the weight itself."""
        if not self.autocast or weight.format == self.compute:
            return None
        copy = Storage(size(weight.count, self.compute), copy_of_weight=True)
        # autocast remembers copies of float32 leaves that need gradients, and no others
        if weight.trained and weight.format == "float32":
            return self.copies.setdefault(weight, copy)
        return copy

    # operations

    def add(self, one: Values, other: Values) -> Values:
        """A sum keeps nothing."""
        grad = one.grad or other.grad
        return self.fresh(max(one.count, other.count), wider(one.format, other.format), grad)

    def mul(self, one: Values, other: Values, name: str) -> Values:
        """A product keeps each factor for the gradient of the other."""
        if one.grad:
            self.keep(other, name)
        if other.grad:
            self.keep(one, name)
        return self.add(one, other)

    def scaled(self, values: Values, weight: Weight, name: str) -> Values:
        """Channels times a weight, as norms do; the weight itself is held anyway."""
        if weight.trained:
            self.keep(values, name)
        grad = values.grad or weight.trained
        return self.fresh(values.count, wider(values.format, weight.format), grad)

    def linear(
        self, values: Values, weight: Weight, out: int, name: str, bias: Weight | None = None
    ) -> Values:
        """A linear map to `out` numbers."""
        values = self.lowered(values)
        copy = self.weight(weight)
        if bias is not None:
            self.weight(bias)
        if weight.trained:
            self.keep(values, f"{name}: input")
        if values.grad and copy is not None:
            self.kept.setdefault(copy, f"{name}: weight in {self.compute}")
        grad = values.grad or weight.trained or (bias is not None and bias.trained)
        return self.fresh(out, values.format if copy is None else self.compute, grad)

    def grouped(self, values: Values, weight: Weight, out: int, name: str) -> Values:
        """A linear map by the weights of many experts, in their format: autocast passes it by."""
        values = self.cast(values, weight.format)
        if weight.trained:
            self.keep(values, f"{name}: input")
        return self.fresh(out, weight.format, values.grad or weight.trained)

    def matmul(self, one: Values, other: Values, out: int, names: tuple[str, str]) -> Values:
        """A product of two matrices that are both no weights."""
        one, other = self.lowered(one), self.lowered(other)
        if other.grad:
            self.keep(one, names[0])
        if one.grad:
            self.keep(other, names[1])
        return self.fresh(out, wider(one.format, other.format), one.grad or other.grad)

    def unary(self, values: Values, name: str, of: str = "input") -> Values:
        """A function of each number, whose gradient needs its input or its result."""
        result = self.like(values)
        if values.grad:
            self.keep(values if of == "input" else result, name)
        return result

    def softmax(self, values: Values, format_: str | None, name: str) -> Values:
        """Probabilities; the result is kept, in `format_` where one is asked for."""
        source = self.raised(values) if format_ is None else values
        result = self.like(source, format_)
        if values.grad:
            self.keep(result, name)
        return result

    def dropout(self, values: Values, share: float, name: str) -> Values:
        """CUDA keeps one byte for each number; the CPU the factors, in the format of the values."""
        if not share:
            return values
        if values.grad:
            self.keep(self.like(values, "bool" if self.cuda else None), f"{name}: dropout")
        return self.like(values)

    def layer_norm(self, values: Values, groups: int, weight: Weight, name: str) -> Values:
        """A layer norm over `groups` rows keeps its input, and each row's mean and deviation."""
        values = self.raised(values)
        if values.grad or weight.trained:
            self.keep(values, f"{name}: input")
            statistics = wider(values.format, weight.format) if not self.cuda else "float32"
            for _ in range(2):
                self.keep(self.fresh(groups, statistics, False), f"{name}: statistics")
        return self.fresh(values.count, values.format, values.grad or weight.trained)

    def rms_norm(
        self, values: Values, groups: int, weight: Weight, name: str, kind: str = "llama"
    ) -> Values:
        """A root mean square norm over `groups` rows, written in Python: many steps, in float32.

        `kind` tells when the result gets its format back: `llama` before the weight, `olmo` after
        it, `gemma` after one plus the weight, which is made anew each time.
        """
        wide = self.cast(values, "float32")
        factor = self.fresh(groups, "float32", values.grad)
        if values.grad:
            self.keep(wide, f"{name}: input in float32")
            self.keep(factor, f"{name}: statistics")
        normal = self.like(wide)
        if kind == "llama":
            return self.scaled(self.cast(normal, values.format), weight, f"{name}: normed")
        if kind == "gemma":
            plus = self.fresh(weight.count, "float32", weight.trained)
            return self.cast(self.mul(normal, plus, f"{name}: normed"), values.format)
        return self.cast(self.scaled(normal, weight, f"{name}: normed"), values.format)
