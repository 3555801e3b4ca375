"""The questions asked of the world."""
