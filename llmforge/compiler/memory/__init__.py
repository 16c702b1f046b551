"""Device memory foretold: what each phase of a run holds, in bytes.

In: facts of a model and settings of a run. Out: figures by part (weights, optimizer state,
activations, ...). Nothing here imports torch; nothing is measured.
"""
