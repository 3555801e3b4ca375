"""Tiny random-weight checkpoints of every family, in the layout of the real ones."""
