"""Attacks on the readers of files, by mutations of files that are well.

targets.py says what is attacked and what must hold, text.py and wire.py mutate a
prototxt and a caffemodel, campaign.py runs many inputs under limits, guided.py lets
coverage choose them. `python -m tests.fuzz --help`.
"""
