"""The rivals' front: every published technique we can run, on the same pipelines, prompts, seeds and clock.

    python benchmarks/rivals --models emoji-pixart --steps 20 --quick     # measure: reports in benchmarks/results/
    python benchmarks/rivals page                                         # docs/rivals.md, its plots, its CSV

Each rival is one file. ``base`` says what a rival is, ``registry`` lists them, ``measure`` runs them.
"""
