"""A census of a directory of Python sources: the main example of Stepwire.

`analysis` measures and `report` prints; both are plain functions and know nothing of flows. `flow` makes a run
of them.
"""
