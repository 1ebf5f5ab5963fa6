"""What any process here needs, and no word about what it is for.

Reading order: `settings` and `process` (how a process starts and stops), `telemetry` and `errors` (how it speaks),
`grpc_server`, `kafka_producer` and `ordered_inbox` (how it is reached and how it hands on), `events`, `keyring`, `lag`,
`retry`, `clock`. A module belongs here when two services use it and it mentions neither.
"""
