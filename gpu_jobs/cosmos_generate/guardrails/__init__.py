"""Guards of prompts and of frames."""
