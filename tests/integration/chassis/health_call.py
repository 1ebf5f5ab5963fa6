"""Asks a gRPC server how it is, as a kubelet does: plain, and without a token."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2

ANSWER_S = 20


async def health_of(address: str, name: str) -> str:
    """Return the status that a server tells under a name, such as `SERVING`."""
    async with grpc.aio.insecure_channel(address) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest(service=name), timeout=ANSWER_S)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
