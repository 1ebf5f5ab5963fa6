"""What the service knows, pure: no I/O, no clock of its own, only the standard library.

Reading order: `procedure` (which moves exist), `dossier` (steps and versions), `notice` (the mail of a step and its
fate), `claim` (the same request twice).
"""
