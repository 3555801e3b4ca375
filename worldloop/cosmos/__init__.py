"""World models of the Cosmos line as the domain sees them: families, models, requests, profiles."""
