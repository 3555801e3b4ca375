"""Signals and de-duplication: which clips are worth keeping."""
