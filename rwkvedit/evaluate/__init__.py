"""Benchmarks: generated worlds, suites, and their runners."""
