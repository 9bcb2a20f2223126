"""The chat at the terminal."""
