"""Trains the starter embedder on our own frames and captions."""
