"""The page in a real browser: a hostile mail is inert, and people find what they look for."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.conditions import eventually
from tests.integration.inbox.running_inbox import RunningInbox
from tests.servers.chromium import ARGUMENTS, find_chromium, why_missing
from tests.servers.require import require

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one browser for all tests here


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    require(why_missing())
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=list(ARGUMENTS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    page = await browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(10_000)
    yield page
    await page.close()


@dataclass
class Elsewhere:
    """A server that a hostile mail would like to reach; it notes every connection."""

    listener: socket.socket
    visits: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def note_visits(self) -> None:
        while True:
            try:
                visitor, _ = self.listener.accept()
            except OSError:
                return  # closed: the test is over
            with visitor:
                visitor.settimeout(5)
                self.visits.append(visitor.recv(1000))


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=server.note_visits)
    thread.start()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    thread.join(timeout=10)


async def send(inbox: RunningInbox, subject: str, text: str = "", html: str = "", to: str = "lan@example.vn") -> None:
    letter = EmailMessage()
    letter["From"] = "Cổng dịch vụ công <kip@otp.kip.test>"
    letter["Subject"] = subject
    letter["Auto-Submitted"] = "auto-generated"
    letter.set_content(text)
    if html:
        letter.add_alternative(html, subtype="html")
    await inbox.send(letter.as_bytes(), to)


HOSTILE = """<html><head>
<meta http-equiv="refresh" content="0;url={url}/refresh">
<link rel="stylesheet" href="{url}/style"><link rel="preconnect" href="{url}">
<style>@import "{url}/import"; body {{ background: url({url}/background) }}</style>
<script src="{url}/script"></script>
</head><body onload="parent.document.title = 'owned'">
<script>parent.document.title = 'owned'; fetch('{url}/fetch')</script>
<p id="proof">the mail is drawn</p>
<img src="{url}/picture" onerror="parent.document.title = 'owned'"><svg onload="parent.document.title = 'owned'"></svg>
<iframe src="{url}/frame"></iframe><video src="{url}/video" autoplay></video><object data="{url}/object"></object>
<form action="{url}/form" method="post"><button id="submit">send</button></form>
<a id="link" href="{url}/link">a link</a> <a id="top" href="{url}/top" target="_top">the whole page</a>
<a id="self" href="{url}/self" target="_self">this frame</a>
</body></html>"""


async def test_a_hostile_mail_runs_nothing_and_fetches_nothing(
    inbox: RunningInbox, page: Page, elsewhere: Elsewhere
) -> None:
    blocked: list[str] = []
    page.on("console", lambda message: blocked.append(message.text))
    await send(inbox, "<img src=x onerror=\"document.title='owned'\">", "hi", HOSTILE.format(url=elsewhere.url))

    await page.goto(inbox.base_url)
    drawn = page.frame_locator("#panel iframe")
    await expect(drawn.locator("#proof")).to_have_text("the mail is drawn")
    for clicked in ("#submit", "#link", "#top", "#self"):
        await drawn.locator(clicked).click(no_wait_after=True)
    for what in ("/picture", "/import", "/background", "/video", "Blocked script", "Blocked form", "Blocked opening"):
        await eventually(lambda: any(what in line for line in blocked), what=f"{what} was blocked")  # noqa: B023  called here

    assert await page.title() == "Demo inbox · Kịp"
    assert page.url.startswith(inbox.base_url)
    await expect(page.locator("#subject")).to_have_text("<img src=x onerror=\"document.title='owned'\">")
    assert await page.locator("#panel iframe").get_attribute("sandbox") == ""
    assert elsewhere.visits == []
    socket.create_connection(elsewhere.listener.getsockname()).close()
    await eventually(lambda: elsewhere.visits == [b""], what="a visit is noted: the proof above counts")


async def test_the_page_itself_refuses_text_as_markup(inbox: RunningInbox, page: Page) -> None:
    await page.goto(inbox.base_url)

    refusal = await page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return '' } catch (e) { return e.name } }"
    )

    assert refusal == "TypeError"


async def test_an_empty_inbox_says_what_to_do(inbox: RunningInbox, page: Page) -> None:
    await page.goto(inbox.base_url)

    await expect(page.locator("#empty")).to_contain_text("make demo TO=lan@example.vn")
    await expect(page.locator("#empty")).to_contain_text(f"127.0.0.1:{inbox.smtp_port}")
    await expect(page.locator("#pulse")).to_have_text("live")


async def test_a_mail_appears_by_itself_newest_first_with_its_html(inbox: RunningInbox, page: Page) -> None:
    await send(inbox, "Hồ sơ đã được tiếp nhận")
    await page.goto(inbox.base_url)
    await expect(page.locator("#list .subject")).to_have_text(["Hồ sơ đã được tiếp nhận"])

    await send(inbox, "Mã xác nhận", "Mã của bạn: 482 913", "<p>Mã của bạn: <b>482 913</b></p>")

    await expect(page.locator("#list .subject")).to_have_text(["Mã xác nhận", "Hồ sơ đã được tiếp nhận"])
    await expect(page.locator("#subject")).to_have_text("Mã xác nhận")
    await expect(page.frame_locator("#panel iframe").locator("b")).to_have_text("482 913")
    await expect(page.locator("#headers")).to_contain_text("auto-generated")


async def test_a_mail_is_read_as_text_and_raw(inbox: RunningInbox, page: Page) -> None:
    await send(inbox, "Mã xác nhận", "Mã của bạn: 482 913", "<p>html</p>")
    await page.goto(inbox.base_url)

    await page.click("#tab-text")
    await expect(page.locator("#panel pre")).to_have_text("Mã của bạn: 482 913")
    await page.click("#tab-raw")
    await expect(page.locator("#panel pre")).to_contain_text("Content-Type: multipart/alternative")


async def test_a_mail_that_is_only_junk_is_shown(inbox: RunningInbox, page: Page) -> None:
    await inbox.send(b"\x00\xff no headers here \x80\r\n")

    await page.goto(inbox.base_url)

    await expect(page.locator("#list .subject")).to_have_text("(no subject)")
    await expect(page.locator("#panel pre")).to_contain_text("no headers here")
    await expect(page.locator("#tab-html")).to_be_disabled()


async def test_everything_is_reached_by_keyboard(inbox: RunningInbox, page: Page) -> None:
    await send(inbox, "older", "the older text", "<p>html</p>")
    await send(inbox, "newer", "the newer text", "<p>html</p>")
    await page.goto(inbox.base_url)
    await expect(page.locator("#list a")).to_have_count(2)

    await page.locator("#to").focus()
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(page.locator("#subject")).to_have_text("older")
    await page.locator("#tab-html").focus()
    await page.keyboard.press("ArrowLeft")

    await expect(page.locator("#panel pre")).to_have_text("the older text")
    await expect(page.locator("#tab-text")).to_be_focused()


async def test_a_phone_shows_the_list_then_the_mail_and_never_scrolls_sideways(inbox: RunningInbox, page: Page) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    await send(inbox, "Mã xác nhận " + "rất dài " * 30, "x" * 500, to="mot-dia-chi-rat-rat-rat-dai-cua-lan@example.vn")
    await page.goto(inbox.base_url)
    await expect(page.locator("#mail-pane")).to_be_hidden()

    await page.click("#list a")
    await expect(page.locator("#panel pre")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    await page.click("#back")

    await expect(page.locator("#list a")).to_be_visible()
    await expect(page.locator("#mail-pane")).to_be_hidden()
    assert await page.evaluate("document.documentElement.scrollWidth") == 360


async def test_the_list_is_narrowed_to_one_address(inbox: RunningInbox, page: Page) -> None:
    await send(inbox, "for lan")
    await send(inbox, "for minh", to="minh@example.vn")
    await page.goto(inbox.base_url)

    await page.fill("#to", "minh@example.vn")
    await expect(page.locator("#list .subject")).to_have_text(["for minh"])
    await page.fill("#to", "thu@example.vn")

    await expect(page.locator("#list .subject")).to_have_count(0)
    await expect(page.locator("#empty-words")).to_have_text("No mail to this address")


async def test_a_long_list_is_read_page_by_page(inbox: RunningInbox, page: Page) -> None:
    async with await inbox.connect() as client:
        for number in range(1, 121):
            await client.sendmail("a@b.vn", ["lan@example.vn"], f"Subject: {number}\r\n\r\n".encode())
    await page.goto(inbox.base_url)
    await expect(page.locator("#list a")).to_have_count(100)

    await page.click("#older")

    await expect(page.locator("#list .subject")).to_have_text([str(number) for number in range(120, 0, -1)])
    await expect(page.locator("#older")).to_be_hidden()


async def test_misbehaviour_is_announced_while_it_lasts(inbox: RunningInbox, page: Page) -> None:
    inbox.client.set_behaviour({"stage": "rcpt", "action": "reply", "code": 450, "times": 3})
    await page.goto(inbox.base_url)
    await expect(page.locator("#scripted")).to_have_text("Misbehaving as told: reply 450 at rcpt for everyone, 3 left")

    inbox.client.set_behaviour()

    await expect(page.locator("#scripted")).to_be_hidden()


async def test_an_emptied_inbox_shows_nothing_old(inbox: RunningInbox, page: Page) -> None:
    await send(inbox, "old")
    await page.goto(inbox.base_url)
    await expect(page.locator("#list a")).to_have_count(1)
    page.on("dialog", lambda dialog: dialog.accept())

    await page.click("#forget")

    await expect(page.locator("#list a")).to_have_count(0)
    await expect(page.locator("#empty-words")).to_have_text("No mail yet")
    assert inbox.client.messages() == []
