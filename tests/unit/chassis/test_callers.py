"""Who may call what: the callers file, tokens and certificates against it, and the rights of a call."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.chassis.errors import Kind
from services.chassis.grpc_callers import (
    Caller,
    Callers,
    NotAllowed,
    caller,
    calling_as,
    demand_purpose,
    demand_scope,
    read_callers,
)
from services.chassis.grpc_credentials import CallersFile

TOKEN = "made-up-token-of-the-portal-0001"
OTHER = "made-up-token-of-the-office-0002"
VERIFY = "/kip.otp.v1.OtpService/VerifyCode"


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


PORTAL = Caller("portal", digest(TOKEN), certificates=frozenset({"portal.kip.svc", "spiffe://kip/portal"}))
OFFICE = Caller("office", digest(OTHER))
CALLERS = Callers((PORTAL, OFFICE))


def callers_file(folder: Path, *entries: object) -> Path:
    file = folder / "callers.json"
    file.write_text(json.dumps({"callers": entries}))
    return file


def entry(name: str, token: str, **rights: object) -> dict[str, object]:
    return {"name": name, "token_sha256": digest(token).hex(), **rights}


@pytest.mark.parametrize(("token", "who"), [(TOKEN, PORTAL), (OTHER, OFFICE)])
def test_a_caller_is_known_by_its_token(token: str, who: Caller) -> None:
    assert CALLERS.with_token(f"Bearer {token}") == who


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer ",
        TOKEN,
        f"bearer {TOKEN}",
        f"Basic {TOKEN}",
        f"Bearer  {TOKEN}",
        f"Bearer {TOKEN} ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}\n",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {digest(TOKEN).hex()}",
        "Bearer " + "x" * 10_000,
    ],
)
def test_anything_else_is_nobody(authorization: str) -> None:
    assert CALLERS.with_token(authorization) is None


def test_a_caller_without_a_token_is_not_known_by_any() -> None:
    by_certificate = Callers((Caller("portal", certificates=frozenset({"portal.kip.svc"})),))

    assert by_certificate.with_token(f"Bearer {TOKEN}") is None
    assert by_certificate.with_token("") is None
    assert Callers((Caller("nobody", digest("")),)).with_token("") is None
    assert Callers().with_token(f"Bearer {TOKEN}") is None


@pytest.mark.parametrize(
    ("names", "who"),
    [
        ({"portal.kip.svc"}, PORTAL),
        ({"spiffe://kip/portal", "elsewhere"}, PORTAL),
        ({"elsewhere"}, None),
        ({"office"}, None),
        ({"*.kip.svc"}, None),
        ({"PORTAL.kip.svc"}, None),
        (set(), None),
    ],
)
def test_a_caller_is_known_by_a_whole_name_of_its_certificate(names: set[str], who: Caller | None) -> None:
    assert CALLERS.with_certificate(names) == who


@pytest.mark.parametrize(
    ("rpcs", "may"),
    [
        (set(), False),
        ({"kip.otp.v1.OtpService/VerifyCode"}, True),
        ({"kip.otp.v1.OtpService/RequestCode"}, False),
        ({"kip.otp.v1.OtpService/*"}, True),
        ({"kip.otp.v1.Otp/*"}, False),
        ({"*"}, True),
    ],
)
def test_a_caller_may_call_what_its_entry_names_and_nothing_else(rpcs: set[str], may: bool) -> None:  # noqa: FBT001 - a case of the table
    assert Caller("portal", rpcs=frozenset(rpcs)).may_call(VERIFY) is may


def test_callers_are_read_from_their_file_with_all_their_rights(tmp_path: Path) -> None:
    rights = {
        "certificates": ["portal.kip.svc"],
        "rpcs": ["kip.otp.v1.OtpService/*"],
        "purposes": ["login"],
        "scopes": ["unlock", "lift"],
    }
    file = callers_file(tmp_path, entry("portal", TOKEN, **rights), {"name": "office", "certificates": ["o"]})

    portal, office = read_callers(file).entries

    assert (portal.name, portal.token_sha256) == ("portal", digest(TOKEN))
    assert portal.certificates == {"portal.kip.svc"}
    assert portal.rpcs == {"kip.otp.v1.OtpService/*"}
    assert portal.purposes == {"login"}
    assert portal.scopes == {"unlock", "lift"}
    assert office == Caller("office", certificates=frozenset({"o"}))


def test_what_an_entry_does_not_name_it_does_not_give() -> None:
    nobody = Caller("portal")

    assert not nobody.may_call(VERIFY)
    with calling_as("portal", purposes=()), pytest.raises(NotAllowed):
        demand_purpose("login")


def test_a_call_has_its_caller_while_it_lasts() -> None:
    with calling_as("portal"):
        with calling_as("office"):
            assert caller() == "office"
        assert caller() == "portal"
    with pytest.raises(LookupError):
        caller()


@pytest.mark.parametrize(("purposes", "may"), [(("login",), True), (("*",), True), (("logi", "login2"), False)])
def test_a_purpose_is_for_those_whose_entry_names_it(purposes: tuple[str, ...], may: bool) -> None:  # noqa: FBT001 - a case of the table
    with calling_as("portal", purposes=purposes):
        if may:
            demand_purpose("login")
            return
        with pytest.raises(NotAllowed) as refused:
            demand_purpose("login")
    assert refused.value.metadata == {"purpose": "login"}


def test_a_scope_that_the_caller_has_lets_the_call_go_on_and_is_told() -> None:
    with calling_as("operator", {"unlock"}), capture_logs() as logs:
        demand_scope("unlock")

    assert logs == [
        {"event": "scope_used", "log_level": "info", "caller": "operator", "scope": "unlock", "granted": True}
    ]


@pytest.mark.parametrize("scopes", [(), ("unloc",), ("unlock-all",), ("UNLOCK",)])
def test_a_scope_that_the_caller_lacks_is_named_to_it_in_both_languages_and_told(scopes: tuple[str, ...]) -> None:
    with calling_as("portal", scopes), capture_logs() as logs, pytest.raises(NotAllowed) as refused:
        demand_scope("unlock")

    error = refused.value
    assert (error.kind, error.reason, error.metadata) == (Kind.FORBIDDEN, "NOT_ALLOWED", {"scope": "unlock"})
    assert "unlock" in error.words.vi
    assert "unlock" in error.words.en
    assert [(log["caller"], log["granted"]) for log in logs] == [("portal", False)]


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.json cannot be read: No such file"):
        read_callers(tmp_path / "nowhere.json")


WRONG: dict[str, tuple[str, str]] = {
    "nothing": ("", "Invalid JSON"),
    "no JSON": ("not json", "Invalid JSON"),
    "a list": ("[]", "file: "),
    "no callers": ("{}", "callers: Field required"),
    "callers that are a number": ('{"callers": 7}', "callers: "),
    "a caller that is a name": ('{"callers": ["portal"]}', "callers.0: "),
    "a caller nobody can be": ('{"callers": [{"name": "portal"}]}', "needs token_sha256 or certificates"),
    "a caller without a name": (json.dumps({"callers": [{"certificates": ["a"]}]}), "callers.0.name: "),
    "a hash that is a number": (
        '{"callers": [{"name": "portal", "token_sha256": 7}]}',
        "callers.0.token_sha256: ",
    ),
    "a hash that is short": (
        '{"callers": [{"name": "portal", "token_sha256": "00ff"}]}',
        "callers.0.token_sha256: ",
    ),
    "a token in place of its hash": (
        json.dumps({"callers": [{"name": "portal", "token_sha256": TOKEN}]}),
        "callers.0.token_sha256: ",
    ),
    "a name twice": (
        json.dumps({"callers": [entry("portal", TOKEN), entry("portal", OTHER)]}),
        "a name belongs to one caller",
    ),
    "a token twice": (
        json.dumps({"callers": [entry("portal", TOKEN), entry("office", TOKEN)]}),
        "a token_sha256 belongs to one caller",
    ),
    "a certificate twice": (
        json.dumps({"callers": [{"name": name, "certificates": ["a.kip"]} for name in ("portal", "office")]}),
        "a certificate belongs to one caller; there are more for: a.kip",
    ),
    "an RPC that is none": (json.dumps({"callers": [entry("portal", TOKEN, rpcs=["Verify"])]}), "callers.0.rpcs.0: "),
    "a right nobody knows": (json.dumps({"callers": [entry("portal", TOKEN, role="admin")]}), "callers.0.role: "),
    **{
        f"scopes that are {scopes}": (
            json.dumps({"callers": [entry("portal", TOKEN), entry("office", OTHER, scopes=scopes)]}),
            "callers.1.scopes",
        )
        for scopes in (None, "unlock", 7, True, {"unlock": True}, ["unlock", 7], [["unlock"]], [None])
    },
}


@pytest.mark.parametrize(("text", "told"), WRONG.values(), ids=WRONG.keys())
def test_a_file_that_is_wrong_is_refused_with_the_place_and_without_a_secret(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "callers.json"
    file.write_text(text)

    with pytest.raises(ValueError, match=r"callers\.json is no callers file") as error:
        read_callers(file)

    assert told in str(error.value)
    assert not any(secret in str(error.value) for secret in (TOKEN, digest(TOKEN).hex()))


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    file = callers_file(tmp_path, {"name": ""}, entry("office", OTHER, rpcs=["x"], scopes=[7]))

    with pytest.raises(ValueError, match="no callers file") as error:
        read_callers(file)

    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "callers.0.name",
        "callers.1.rpcs.0",
        "callers.1.scopes.0",
    ]


def test_a_file_that_changes_is_taken_and_one_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    file = callers_file(tmp_path, entry("portal", TOKEN))
    known = CallersFile(file)
    heard: list[list[str]] = []
    known.on_change.append(lambda callers: heard.append([each.name for each in callers.entries]))
    assert known.look() is None

    callers_file(tmp_path, entry("portal", TOKEN), entry("office", OTHER))
    assert known.look() is True
    file.write_text("not json")
    with capture_logs() as logs:
        assert (known.look(), known.look()) == (False, None)
    file.unlink()
    assert known.look() is None

    assert heard == [["portal", "office"]]
    assert known.callers.find("office") is not None
    assert [log["event"] for log in logs] == ["callers_refused"]
    callers_file(tmp_path)
    assert known.look() is True
    assert known.callers == Callers()


def test_a_callers_file_that_is_wrong_at_the_start_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no callers file"):
        CallersFile(callers_file(tmp_path, {"name": "portal"}))
