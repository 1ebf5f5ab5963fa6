"""Issue a code: claim the key, decide, commit, announce.

What is stored if the process dies: after the claim, the ids, so that a repeat with the same key resumes with the same
challenge; after the commit, the challenge and the event in the outbox, so that the letter is sent although nobody
answered the caller. The answer does not depend on Kafka: the outbox is the promise, and announcing it here only saves
the sweep's delay.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.chassis.errors import Kind, ServiceError, Words
from services.chassis.keyring import Key, Keyring, mac
from services.otp.ports import Announce, ChallengeStore, Claim, LetterWanted, Part, Sealer, StoreUnavailable
from services.otp.rules.challenge import Handle, SealedPart
from services.otp.rules.handle import handle_text
from services.otp.rules.policy import Policy, Purpose
from services.otp.rules.request import Joined, Queued, Repeated, TooSoon, Wish, decide_request
from services.otp.rules.view import ChallengeView, seen_by

COMMIT_TRIES = 8  # lost races in a row before we say so; more than ever seen with hundreds of writers of one subject
ANNOUNCE_WITHIN = timedelta(milliseconds=500)  # a broker that is there answers in 10 ms; the outbox keeps what is not
REFERENCE_CHARACTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base32
REFERENCE_LENGTH = 5


class UnknownPurpose(ServiceError):
    """The policy has no such purpose."""

    kind = Kind.INVALID
    reason = "UNKNOWN_PURPOSE"


class IdempotencyKeyReused(ServiceError):
    """The key was used with another body, or for something that ended long ago."""

    kind = Kind.CONFLICT
    reason = "IDEMPOTENCY_KEY_REUSED"


class QuotaExceeded(ServiceError):
    """Asked again too soon."""

    kind = Kind.EXHAUSTED
    reason = "QUOTA_EXCEEDED"


@dataclass(frozen=True, slots=True)
class RequestCode:
    """A valid request; the address is syntactically right, every text within its limit."""

    caller: str
    idempotency_key: str
    purpose: str
    subject: str
    email: str
    locale: str
    """`vi`, `en` or empty for the policy's default."""
    context: str
    decoy: bool


@dataclass(frozen=True, slots=True)
class Issued:
    """The answer: a handle for the caller alone, and the challenge."""

    handle: str
    challenge: ChallengeView
    joined: bool
    outcome: str
    """For the metric: queued, joined, repeated."""


class IssueCode:
    """Verb: issue a code, or join one that is on its way."""

    def __init__(
        self,
        store: ChallengeStore,
        sealer: Sealer,
        announce: Announce,
        policy: Policy,
        *,
        code_keys: Keyring,
        handle_keys: Keyring,
        index_keys: Keyring,
    ) -> None:
        """Take the ports and the rings it mints with."""
        self._store = store
        self._sealer = sealer
        self._announce = announce
        self._policy = policy
        self._code_keys = code_keys
        self._handle_keys = handle_keys
        self._index_keys = index_keys

    async def __call__(self, request: RequestCode, now: datetime) -> Issued:
        """Issue; `now` is this host's time, used to choose keys only. Instants of the challenge are the store's.

        Raises:
            UnknownPurpose, IdempotencyKeyReused, QuotaExceeded: as they say.
            StoreUnavailable: nothing is known; repeat with the same key.
        """
        purpose = self._policy.find(request.purpose)
        if purpose is None:
            raise UnknownPurpose(
                Words(vi="Mục đích này không được hỗ trợ.", en="No such purpose in the policy."),
                metadata={"purpose": request.purpose[:64]},
            )
        index = self._index_keys.minting(now)
        claim_key = mac(index, "claim", request.caller, request.idempotency_key).hex()
        minted = Claim(
            fingerprint=mac(index, "body", *_body(request)),
            challenge_id=self._store.mint_id(request.purpose, request.subject),
            handle_kid=self._handle_keys.minting(now).kid,
            claimed_at=now,
        )
        claim = await self._store.claim(claim_key, minted)
        if not secrets.compare_digest(claim.fingerprint, minted.fingerprint):
            raise IdempotencyKeyReused(
                Words(
                    vi="Khóa idempotency đã dùng cho một yêu cầu khác.",
                    en="This idempotency key was used with another body. Use a new key for a new request.",
                )
            )
        subject_key = mac(index, "subject", request.purpose, request.subject).hex()
        resumed_until = claim.claimed_at + purpose.challenge_life if claim != minted else None
        decided, decided_at = await self._decide_and_commit(
            self._wish(request, purpose, claim, index, now), subject_key, resumed_until
        )
        if decided.challenge.id != claim.challenge_id:
            await self._store.settle_claim(claim_key, replace(claim, challenge_id=decided.challenge.id))
        return self._issued(request, purpose, claim.handle_kid, decided, decided_at)

    def _issued(
        self,
        request: RequestCode,
        purpose: Purpose,
        handle_kid: str,
        decided: Queued | Joined | Repeated,
        decided_at: datetime,
    ) -> Issued:
        secret = self._secret(decided.challenge.id, request, handle_kid)
        place = decided.challenge.handle_of(request.caller, hashlib.sha256(secret).digest())
        if place is None:  # the rules put the handle there
            raise AssertionError("a decided request has no handle")
        return Issued(
            handle=handle_text(decided.challenge.id, secret),
            challenge=seen_by(decided.challenge, place, purpose, decided_at),
            joined=decided.challenge.handles[place].joined,
            outcome=type(decided).__name__.lower(),
        )

    def _wish(self, request: RequestCode, purpose: Purpose, claim: Claim, index: Key, now: datetime) -> Wish:
        same_wish = mac(index, "wish", request.caller, request.purpose, request.subject, request.email, request.context)

        def handle(challenge_id: str) -> Handle:
            secret = self._secret(challenge_id, request, claim.handle_kid)
            return Handle(request.caller, hashlib.sha256(secret).digest())

        def seal(challenge_id: str, generation: int) -> SealedPart:
            part = Part(email=request.email, context=request.context, decoy=request.decoy)
            return self._sealer.seal(challenge_id, generation, part, now)

        return Wish(
            purpose=purpose,
            challenge_id=claim.challenge_id,
            same_wish=same_wish.hex(),
            handle=handle,
            seal=seal,
            reference="".join(secrets.choice(REFERENCE_CHARACTERS) for _ in range(REFERENCE_LENGTH)),
            code_kid=self._code_keys.minting(now).kid,
            locale=request.locale or purpose.default_locale,
            context_sha256=hashlib.sha256(request.context.encode()).digest(),
        )

    def _secret(self, challenge_id: str, request: RequestCode, handle_kid: str) -> bytes:
        key = self._handle_keys.named(handle_kid)
        return mac(key, "kip-handle-v1", challenge_id, request.caller, request.idempotency_key)

    async def _decide_and_commit(
        self, wish: Wish, subject_key: str, resumed_until: datetime | None
    ) -> tuple[Queued | Joined | Repeated, datetime]:
        """Return what was decided, and when by the store's clock; a standing claim is resumed until `resumed_until`."""
        shard = self._store.shard_of(wish.challenge_id)
        if shard is None:
            raise AssertionError("a minted id carries its shard")
        for _ in range(COMMIT_TRIES):
            loaded = await self._store.load(shard, subject_key=subject_key, challenge_ids=[wish.challenge_id])
            latest = loaded.challenges.get(wish.challenge_id)
            if latest is None and resumed_until is not None and loaded.now > resumed_until:
                raise _too_old()  # the same id would make the same codes again, which were mailed and maybe used
            if latest is None and loaded.subject is not None:
                named = await self._store.load(shard, challenge_ids=[loaded.subject.challenge_id])
                latest = named.challenges.get(loaded.subject.challenge_id)
            decided = decide_request(wish, subject_key, loaded.subject, latest, loaded.now)
            if isinstance(decided, TooSoon):
                raise _too_soon(decided.retry_after)
            if isinstance(decided, Repeated) or await self._committed(shard, decided):
                return decided, loaded.now
        raise StoreUnavailable

    async def _committed(self, shard: int, decided: Queued | Joined) -> bool:
        """Write the decision; `False` when somebody else was faster."""
        if isinstance(decided, Joined):
            return await self._store.commit(shard, challenge=decided.challenge) is not None
        letter = LetterWanted(decided.challenge, decided.challenge.newest)
        entries = await self._store.commit(
            shard, challenge=decided.challenge, subject=decided.subject, letters=[letter]
        )
        if entries is None:
            return False
        await self._announce(entries, within=ANNOUNCE_WITHIN)
        return True


def _body(request: RequestCode) -> list[str]:
    return [
        request.purpose,
        request.subject,
        request.email,
        request.locale,
        request.context,
        "decoy" if request.decoy else "",
    ]


def _too_old() -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        Words(
            vi="Yêu cầu của khóa idempotency này đã kết thúc từ lâu.",
            en="What this idempotency key asked for ended long ago. Use a new key to ask for a new code.",
        )
    )


def _too_soon(retry_after: timedelta) -> QuotaExceeded:
    seconds = max(int(retry_after.total_seconds()) + 1, 1)
    return QuotaExceeded(
        Words(
            vi=f"Thư đã hoặc đang được gửi. Vui lòng xem hộp thư (cả thư rác) và thử lại sau {seconds} giây.",
            en=f"A mail is there or on its way. Look in the mailbox, also in spam; ask again in {seconds} seconds.",
        ),
        retry_after=retry_after,
    )
