"""What the service stands on: Redis, Kafka, files. Each adapter keeps a promise of `ports`."""
