"""`kip-dead`: look at dead letters, put them back, or close them.

Start with `__main__`, the commands. `kafka_graveyard` reads and writes; `buried` is what it reads, and which of it a
person meant; `public_part` is what may be shown of an event. Decisions: docs/adr/0013-dead-letters.md.
"""
