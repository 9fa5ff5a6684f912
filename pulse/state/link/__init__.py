"""The line to Redis."""
