"""Vectors of clips and of search texts, by open_clip."""
