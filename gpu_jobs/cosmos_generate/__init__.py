"""Generate clips with Cosmos world models: one process, one model, one shape, many prompts."""
