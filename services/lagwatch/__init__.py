"""Measures, from outside, how far each consumer group is behind: the measurer is not the mailer.

A dead mailer exports nothing, so its queue is measured by somebody else. Reading order: `README.md`, the arithmetic in
`services.chassis.lag` and `services.chassis.lane`, `ports` (what it needs), `actions/measure` (one measurement),
`inbound` (when it is made), `outbound` (how Kafka is read), `metrics` (what Prometheus sees), `__main__` (how all is
joined).
"""
