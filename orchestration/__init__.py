"""The table of contents: definitions, deployments, schedules, command line."""
