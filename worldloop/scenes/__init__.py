"""Scenes: moments at places, drawn from the atlas, checked, planned for coverage, as records."""
