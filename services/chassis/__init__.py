"""What any process here needs, and no word about what it is for.

Reading order: `settings` and `process` (how a process starts and stops), `telemetry` and `errors` (how it speaks),
`grpc_server` and `grpc_fields` (how it is reached), `kafka_client`, `kafka_producer` and `ordered_inbox` with
`record_fate`, `offset_tracker` and `faust_app` (how it hands on and takes in), `redis_servers` with `redis_commands`
(where it remembers), `events`, `keyring`, `lag`, `lane`,
`retry`, `clock`.
A module belongs here when two services use it and it mentions neither.
"""
