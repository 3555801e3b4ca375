"""A scene as a world model reads it: Cosmos 3 JSON and prose."""
