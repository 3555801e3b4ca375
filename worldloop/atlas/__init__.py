"""The places of the world: cities, institutions and their decorum, with sources."""
