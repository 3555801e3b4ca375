"""What every job shares: reading a spec from Pipes or a file, and logging."""
