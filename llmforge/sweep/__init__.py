"""Sweeps: many runs compiled whole before the first is started, then run, answered or resumed.

    overrides  ->  definition.py   what is varied and sought         (refused: LF710-LF719)
               ->  preflight.py    every point compiled, deduplicated, looked up, priced
               ->  driver.py       batches to a Hydra launcher, outcomes from the run folders
               ->  trial.py        one point, wherever the launcher put it

`folder.py` knows the files of a sweep's folder, `table.py` prints it. The way in from Hydra is
`hydra_plugins/llmforge_sweeper.py`; from the command line, `verbs/sweeping.py`. Nothing here
imports torch.
"""
