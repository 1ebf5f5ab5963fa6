"""The HTTP side: the JSON API and the page.

Answers only requests that name this machine as their host, so that a web page from elsewhere cannot read the mails by
pointing a name of its own at 127.0.0.1 (DNS rebinding). There are no CORS headers, so a browser lets no other site use
the API either.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.dev.inbox.behaviour import Behaviour, parse_rules
from deploy.dev.inbox.mailbox import Mail, Mailbox
from deploy.dev.inbox.reading import Headers, read_headers, read_mail
from deploy.dev.inbox.stats import Stats

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
NEVER_RENDERED = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}


class _ListQuery(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    to: str = ""
    after: int = Field(default=0, ge=0)
    before: int | None = Field(default=None, ge=0)
    limit: int = Field(default=50, ge=1, le=500)


class _WaitQuery(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    to: str = ""
    after: int = Field(default=0, ge=0)
    timeout_s: float = Field(default=10, ge=0, le=300)


@dataclass(frozen=True, slots=True)
class HttpApi:
    """What the API shows and changes; `application` is the way in."""

    mailbox: Mailbox
    behaviour: Behaviour
    stats: Stats
    smtp_address: str
    page: str

    def application(self) -> web.Application:
        """Return the routes, ready to be served."""
        application = web.Application(middlewares=[_refuse_foreign_hosts, _explain_bad_input])
        application.add_routes(
            [
                web.get("/", self._show_page),
                web.get("/api/health", self._health),
                web.get("/api/messages", self._list_messages),
                web.delete("/api/messages", self._forget_messages),
                web.get(r"/api/messages/{id:\d{1,15}}", self._read_message),
                web.get(r"/api/messages/{id:\d{1,15}}/raw", self._read_raw),
                web.get("/api/wait", self._wait),
                web.get("/api/behaviour", self._read_behaviour),
                web.put("/api/behaviour", self._set_behaviour),
                web.delete("/api/behaviour", self._reset_behaviour),
                web.get("/api/stats", self._read_stats),
            ]
        )
        return application

    async def _show_page(self, _: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": content_security_policy(self.page), "X-Content-Type-Options": "nosniff"}
        return web.Response(text=self.page, content_type="text/html", headers=headers)

    async def _health(self, _: web.Request) -> web.Response:
        return _json({"status": "ok", "smtp": self.smtp_address, "messages": len(self.mailbox)})

    async def _list_messages(self, request: web.Request) -> web.Response:
        query = _ListQuery.model_validate(dict(request.query))
        mails = self.mailbox.newest(to=query.to, after=query.after, before=query.before, limit=query.limit)
        return _json(
            {
                "messages": [_summary(mail, read_headers(mail.raw)) for mail in mails],
                "kept": len(self.mailbox),
                "oldest_id": self.mailbox.oldest_id,
                "newest_id": self.mailbox.newest_id,
            }
        )

    async def _read_message(self, request: web.Request) -> web.Response:
        return _json(_whole(self._find(request)))

    async def _read_raw(self, request: web.Request) -> web.Response:
        mail = self._find(request)
        return web.Response(body=mail.raw, content_type="text/plain", charset="utf-8", headers=NEVER_RENDERED)

    async def _forget_messages(self, _: web.Request) -> web.Response:
        return _json({"forgotten": self.mailbox.forget_all()})

    async def _wait(self, request: web.Request) -> web.Response:
        query = _WaitQuery.model_validate(dict(request.query))
        mail = await self.mailbox.wait_for(to=query.to, after=query.after, timeout_s=query.timeout_s)
        return _json(_whole(mail)) if mail else web.Response(status=204)

    async def _read_behaviour(self, _: web.Request) -> web.Response:
        rules = self.behaviour.rules
        return _json([{"rule": rule.model_dump(mode="json", exclude_none=True), "used": used} for rule, used in rules])

    async def _set_behaviour(self, request: web.Request) -> web.Response:
        self.behaviour.replace(parse_rules(await request.read()))
        return await self._read_behaviour(request)

    async def _reset_behaviour(self, _: web.Request) -> web.Response:
        self.behaviour.replace([])
        return _json([])

    async def _read_stats(self, _: web.Request) -> web.Response:
        return _json(self.stats.as_json())

    def _find(self, request: web.Request) -> Mail:
        mail = self.mailbox.find(int(request.match_info["id"]))
        if mail is None:
            raise web.HTTPNotFound(
                text=json.dumps({"error": "no such mail; GET /api/messages lists those that are kept"}),
                content_type="application/json",
            )
        return mail


def load_page() -> str:
    """Read the page that lies beside this module."""
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def content_security_policy(page: str) -> str:
    """Return the policy under which the page runs: its own script by hash, its own API, nothing else.

    A mail's html is shown in a frame that inherits this policy, hence inline styles and `data:` pictures. Trusted Types
    make the browser refuse text as markup everywhere but in the page's one policy for that frame.
    """
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{digest}'",
            "style-src 'unsafe-inline'",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types mail-frame",
        )
    )


def _whole(mail: Mail) -> dict[str, Any]:
    headers, content = read_mail(mail.raw)
    return {**_summary(mail, headers), "text": content.text, "html": content.html, "all_headers": headers.lines}


def _summary(mail: Mail, headers: Headers) -> dict[str, Any]:
    return {
        "id": mail.id,
        "received_at": _rfc3339(mail.received_at),
        "mail_from": mail.mail_from,
        "rcpt_to": mail.rcpt_to,
        "subject": headers.find("Subject"),
        "message_id": headers.find("Message-ID"),
        "date": headers.find("Date"),
        "age_on_arrival_s": headers.age_s(mail.received_at),
        "size": len(mail.raw),
        "headers": headers.that_matter(),
    }


def _rfc3339(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object, status: int = 200) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.json_response(value, status=status, headers=headers, dumps=_dumps)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # people read this in a terminal, in Vietnamese


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _refuse_foreign_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    name = request.host.rpartition(":")[0] if ":" in request.host.rpartition("]")[2] else request.host
    if name not in LOOPBACK_NAMES:
        return _json({"error": f"this inbox answers only to {', '.join(LOOPBACK_NAMES)}"}, status=403)
    return await handler(request)


@web.middleware
async def _explain_bad_input(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = [{"field": ".".join(map(str, each["loc"])), "why": each["msg"]} for each in found]
        return _json({"error": "bad input; nothing was changed", "problems": problems}, status=400)
