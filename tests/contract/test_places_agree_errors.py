"""Reasons of refusal: what the code raises is what the contract lists, and nothing is listed that nobody sends."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from kip.dossier.v1.dossier_error_reason_pb2 import ErrorReason as DossierReason
from kip.otp.v1.otp_error_reason_pb2 import ErrorReason as OtpReason

from services.chassis.errors import ServiceError

PREFIX = "ERROR_REASON_"


def refusals(of: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from refusals(kind)


def reasons_of(service: str) -> set[str]:
    """Return the reasons of everything that the service can raise: its own refusals and the chassis'."""
    importlib.import_module(f"services.{service}.__main__")  # reaches all of the service
    owners = (f"services.{service}.", "services.chassis.")
    return {kind.reason for kind in refusals() if kind.__module__.startswith(owners) and hasattr(kind, "reason")}


@pytest.mark.parametrize(("service", "listed"), [("otp", OtpReason), ("dossier", DossierReason)])
def test_the_reasons_of_the_code_are_those_of_the_contract(service: str, listed: EnumTypeWrapper) -> None:
    names = {name.removeprefix(PREFIX) for name in listed.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - no mapping

    raised = reasons_of(service)

    assert raised <= names, "add these to the contract"
    assert names <= raised, "nobody raises these: take them out, or raise them"
