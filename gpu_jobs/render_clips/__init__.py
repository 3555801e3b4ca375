"""Procedural clips with exact annotations, on NVIDIA Warp."""
