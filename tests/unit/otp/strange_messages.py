"""Request messages that nobody would send, drawn from the descriptors: a new field is drawn without a word here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st
from kip.otp.v1 import otp_service_pb2 as pb

from tests.fakes.otp import PURPOSE
from tests.unit.otp.desk import NO_HANDLE, REQUEST

HANDLE, CODE, CHALLENGE_ID = "{handle}", "{code}", "{challenge id}"
"""Stand for what the office knows only while the example runs; see `filled`."""
METHODS = tuple(method.name for method in pb.DESCRIPTOR.services_by_name["OtpService"].methods)
BITS = {FieldDescriptor.CPPTYPE_UINT32: 32, FieldDescriptor.CPPTYPE_UINT64: 64}

ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
CONTROL = st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Mn"]), min_size=1, max_size=8)
HUGE = st.builds(
    lambda unit, times: unit * times,
    st.sampled_from(["x", "9", "ạ", "\u0000", " ", "@", "."]),
    st.sampled_from([60, 64, 65, 128, 129, 201, 255, 20_000]),
)
HOSTS = st.sampled_from(
    ["example.vn", "xn--", "xn--a", "[127.0.0.1]", "a..b", "-.vn", "ví-dụ.vn", "\u2024.vn", "." * 9]
)
SHORT_TEXT = st.text(st.characters(categories=["L", "Nd", "Po"]), min_size=1, max_size=20)
STRANGE: Mapping[str, st.SearchStrategy[str]] = {
    "handle": st.one_of(
        st.sampled_from([HANDLE.upper(), CHALLENGE_ID, NO_HANDLE, ".", "c00.", f"{HANDLE} ", f"{HANDLE}."]),
        st.builds(lambda shard, secret: f"c{shard}.{secret}", ANY_TEXT, ANY_TEXT),
        st.from_regex(r"\Ac[0-9a-f]{34}\.[0-9a-f]{0,66}\Z"),
    ),
    "code": st.one_of(
        st.text(st.characters(categories=["Nd", "Nl", "No", "Pd", "Zs"]), max_size=70),
        st.from_regex(r"\A[0-9 .\-]{1,64}\Z"),
    ),
    "email": st.one_of(
        st.emails(), st.builds(lambda name, host: f"{name}@{host}", ANY_TEXT, st.one_of(HOSTS, ANY_TEXT))
    ),
    "purpose": st.sampled_from(["login", PURPOSE.name.upper()]),
    "locale": st.sampled_from(["VI", "fr", "vi-VN", "\u0000"]),
    "ip": st.sampled_from(["999.1.1.1", "::ffff:1.2.3.4%eth0", "localhost"]),
}
LIKELY: Mapping[str, st.SearchStrategy[str]] = {
    "handle": st.just(HANDLE),
    "code": st.sampled_from([CODE, CODE, "000000"]),
    "email": st.sampled_from([REQUEST.email, "minh@example.vn"]),
    "purpose": st.just(PURPOSE.name),
    "locale": st.sampled_from(["vi", "en", ""]),
    "subject": st.sampled_from([REQUEST.subject, "citizen-8"]),
    "context": st.sampled_from([REQUEST.context, ""]),
    "idempotency_key": st.sampled_from(["key-1", "key-2"]),
    "ip": st.sampled_from(["192.0.2.1", "2001:db8::1", ""]),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call: which, with what, and by whom."""

    method: str
    request: Any
    scopes: tuple[str, ...]


def calls() -> st.SearchStrategy[Call]:
    """Return calls of every method of the service."""
    service = pb.DESCRIPTOR.services_by_name["OtpService"]
    scopes = st.sampled_from([("unlock",), ()])
    return st.one_of(
        *(st.builds(Call, st.just(method.name), messages(method.input_type), scopes) for method in service.methods)
    )


def messages(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Return messages of one type: likely ones, and such that are strange in some fields or lack one."""
    made = getattr(pb, descriptor.name)
    likely = {field.name: _likely(field) for field in descriptor.fields}
    strange = {field.name: _strange(field) for field in descriptor.fields}
    names = st.sampled_from(sorted(likely))
    oddities = st.tuples(st.lists(names, max_size=3, unique=True), st.lists(names, max_size=1))

    @st.composite
    def message(draw: st.DrawFn) -> Any:
        odd, absent = draw(oddities)
        return made(**{name: draw((strange if name in odd else likely)[name]) for name in likely if name not in absent})

    return message()


def filled(request: Any, known: Mapping[str, str]) -> Any:
    """Return the request with what the office knows in place of what stands for it."""
    for field, value in request.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            for stand_in, meant in known.items():
                value = value.replace(stand_in, meant).replace(stand_in.upper(), meant.upper())  # noqa: PLW2901
            setattr(request, field.name, value)
    return request


def _likely(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return LIKELY.get(field.name, SHORT_TEXT)
    return _strange(field)


def _strange(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return st.one_of(STRANGE.get(field.name, ANY_TEXT), ANY_TEXT, CONTROL, HUGE)
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_MESSAGE if field.message_type is not None:
            return messages(field.message_type)
    most = 2 ** BITS[field.cpp_type] - 1
    return st.one_of(st.integers(0, most), st.sampled_from([0, 1, 255, 256, most // 2, most // 2 + 1, most]))
