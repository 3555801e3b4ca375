"""Rounds over Flower, for sites that share no store with the coordinator; the extra `flower`."""
