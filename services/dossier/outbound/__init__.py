"""What the service reaches: SQL, the catalogue of procedures, Kafka.

`sql_database` and `sql_tables` are the ground of `sql_archive`, `sql_outbox` and `sql_migrations`; `yaml_catalogue`
reads procedures, `kafka_events` announces.
"""
