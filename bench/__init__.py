"""Measures what a code costs, beside what people use today. `make bench`; see README.md."""
