"""What the service stands on: SMTP, Redis, Kafka, templates. Each adapter keeps a promise of `ports`."""
