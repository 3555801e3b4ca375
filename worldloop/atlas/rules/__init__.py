"""The rules that an atlas must keep, by what they judge; `checks.py` runs them all."""
