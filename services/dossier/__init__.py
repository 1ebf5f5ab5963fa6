"""dossier: where is my file? It keeps the administrative files whose steps a citizen follows, and mails each step.

Reading order: `README.md`, `ports` (what it needs from outside), `__main__` (how it is joined), then by room: `inbound`
(gRPC, Kafka, the timer), `actions` (open, advance, find, follow, sweep, forget), `rules` (dossier, procedure, notice,
claim), `outbound` (SQL, YAML, Kafka).
"""
