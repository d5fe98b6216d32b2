"""Sweeps over training options, and the paper's tables and figures as such sweeps.

This floor lies above the command lines `train` and `evaluate`: it starts them, each run in a process and a folder of
its own, and draws tables and plots from what they left there.
"""
