"""A plan done whole: prepare, train, evaluate, fuse, quantize, and the answers of what was made.

In: a plan, first and last stage. Out: what each stage came to (`ledger.py`), kept in `chain.json`
of the run folder and in MLflow as children of one run. Which stages there are is in `links.py`, how
one is done or found finished in `doing.py`, the loop over them in `driving.py`, what is refused
before the first in `clearing.py`, the table in `telling.py`, MLflow's side in `recording.py`.

Nothing is trained, merged or quantized here: each stage has its worker. No torch, no MLflow.
"""

from __future__ import annotations

from llmforge.run.chain.driving import ChainOutcome, run_chain

__all__ = ["ChainOutcome", "run_chain"]
