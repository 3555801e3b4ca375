"""Post-trains Cosmos world models: LoRA or all weights, from a folder of footage; one warm process a site."""
