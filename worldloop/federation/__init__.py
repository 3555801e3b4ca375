"""Federated post-training without Dagster and torch: rounds, deltas, aggregation, privacy, gates."""
