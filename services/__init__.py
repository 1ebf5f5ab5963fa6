"""Kịp's processes: `otp`, `mailer`, `dossier`, `lagwatch`, and the `chassis` that any of them stands on.

Reading order: `chassis` (what a process needs), then one service from its `README.md` through `__main__`, `inbound`,
`actions`, `rules`, `outbound`. Services share contracts (`protos/`) and the chassis; they never import each other.
"""
