"""Trains a small world model of the Cosmos-1.0 architecture on our own rendered footage."""
