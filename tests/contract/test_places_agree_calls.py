"""Calls: the table of a README names exactly what the contract of its service offers."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from kip.dossier.v1 import dossier_service_pb2
from kip.otp.v1 import otp_service_pb2

from tests.quality.source_code import ROOT, quoted, table_with

OFFERED = {
    "otp": otp_service_pb2.DESCRIPTOR.services_by_name["OtpService"],
    "dossier": dossier_service_pb2.DESCRIPTOR.services_by_name["DossierService"],
}


@pytest.mark.parametrize("service", OFFERED)
def test_a_readme_names_exactly_the_calls_of_the_contract(service: str) -> None:
    contract: ServiceDescriptor = OFFERED[service]
    readme = (ROOT / "services" / service / "README.md").read_text()

    listed = [quoted(row["call"])[0] for row in table_with(readme, "call")]

    assert listed == [method.name for method in contract.methods]
