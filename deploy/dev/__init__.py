"""The whole of Kịp on one laptop: real Kafka, Redis, a mail inbox and the four services, no containers, no root.

Read in this order: `environment` makes `.venv`; `process_table` is the map of what runs, where, and with which
settings; `stack` starts and stops it; `server_process` is what every process has in common; `kafka_*` and
`valkey_server` are the two servers that need more than a command line.
"""
