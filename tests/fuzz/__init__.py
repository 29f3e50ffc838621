"""Tests of the readers of files with mutations of valid files.

targets.py has the functions to test and what must be true of them, text.py and wire.py
mutate a prototxt and a caffemodel, campaign.py runs many inputs under limits, guided.py
lets coverage choose them. `python -m tests.fuzz --help`.
"""
