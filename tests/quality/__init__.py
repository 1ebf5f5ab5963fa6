"""Small programs that the Makefile runs: each compares two places that must agree and says how to mend them.

`source_code` reads our own files for them and for the tests in `tests/contract/test_places_agree_*.py`.
"""
