"""One module a shell verb."""
