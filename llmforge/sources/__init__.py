"""Where rows come from: one reader per kind of source, the same for the compiler and the worker.

In: a source's settings. Out: `Part`s (a file, a query, a split), each an ordered, re-iterable
sequence of raw rows with their places and faults. `flow.py` turns raw rows into rows of a shape.
Nothing here tokenises, and nothing imports torch, datasets or numpy.
"""
