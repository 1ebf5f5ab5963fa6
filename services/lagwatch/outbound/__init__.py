"""How Kafka is read: with kafka-python's blocking clients, in one thread, each call bounded in time."""
