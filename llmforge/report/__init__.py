"""Pages for people: one file each, that open anywhere and ask nobody for anything.

    run folder   ->  run_page.py     ->  report.html of a run
    sweep folder ->  sweep_page.py   ->  report.html of a sweep

    sweep folder ->  record.py       ->  its run in MLflow, in a process of its own

`drawing.py` makes the pictures, `page.py` the file; `templates/` holds the words. Nothing here
measures: every number stands in a folder before. Nothing here imports torch or MLflow.
"""
