"""What reaches the service: calls (`grpc_api`), how letters fared (`kafka_inbox`), time (`asyncio_timer`)."""
