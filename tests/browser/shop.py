#!/usr/bin/env python3
"""Tries the example shop in a real browser: Debian's Chromium, headless, driven over WebDriver with nothing but the standard library.

    tests/browser/shop.py [--shop PATH] [--screenshots FOLDER]

It signs in and fills a cart, kills the shop with SIGKILL and starts it again on the same folder, signs in with a second browser, and signs
out everywhere from the first while requests of the second are in flight. Any surprise ends it with a failure. It is skipped, with success, only where Chromium can be neither found nor
installed. It does not test the store's inner life; the Rust tests do.
"""

import argparse
import base64
import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

START_SECONDS_MAX = 60
ANSWER_SECONDS_MAX = 60
NAME = 'Ada <b>"Lovelace"</b>'
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/604.1"
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]
# Everything is on the loopback address: no proxy of the environment has a say.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check(what, is_so, detail=""):
    if not is_so:
        raise AssertionError(f"{what} {detail}".strip())
    print(f"  ok  {what}")


def find_or_install():
    """The paths of Chromium and its driver, or None."""
    def found():
        pair = shutil.which("chromium"), shutil.which("chromedriver")
        return pair if all(pair) else None

    if found() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
        packages = ["chromium", "chromium-driver"]
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *packages], check=False, **quiet)
    return found()


def first_line_with(process, pattern):
    """What `pattern` finds in the output of a process that is starting; its lines come through as they are."""
    deadline, text = time.monotonic() + START_SECONDS_MAX, ""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([process.stdout], [], [], left)[0]:
            chunk = os.read(process.stdout.fileno(), 65536).decode(errors="replace")
            text += chunk
            if match := re.search(pattern, text):
                return match.group(1)
            if not chunk:
                break
    raise AssertionError(f"{process.args[0]} did not start: {text!r}")


class Shop:
    """The shop as a process; its address stays the same when it starts again."""

    def __init__(self, binary, folder):
        self.binary, self.folder, self.listen, self.process = binary, folder, "127.0.0.1:0", None

    def start(self):
        command = [self.binary, "--folder", self.folder, "--listen", self.listen]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.listen = first_line_with(self.process, r"listening on http://(\S+)/\n")
        self.address = f"http://{self.listen}"

    def end_with(self, number):
        self.process.send_signal(number)
        rest = self.process.communicate(timeout=START_SECONDS_MAX)[0].decode(errors="replace")
        return self.process.returncode, rest

    def kill(self):
        code, _ = self.end_with(signal.SIGKILL)
        check("the shop was killed", code == -signal.SIGKILL, code)

    def ask(self, path="/", cookie=None, form=None, **headers):
        """A request without a browser: status, text, and whether a cookie was set."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if cookie is not None:
            headers["Cookie"] = cookie
        request = urllib.request.Request(self.address + path, data=form, headers=headers)
        try:
            with DIRECT.open(request, timeout=ANSWER_SECONDS_MAX) as answer:
                return answer.status, answer.read().decode(), "Set-Cookie" in answer.headers
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode(), "Set-Cookie" in refused.headers


class Driver:
    """chromedriver, which starts browsers."""

    def __init__(self, path):
        self.process = subprocess.Popen([path, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.address = "http://127.0.0.1:" + first_line_with(self.process, r"started successfully on port (\d+)")
        self.browsers = []

    def end(self):
        """Browsers outlive their driver unless they are closed one by one, also those of a try that failed."""
        for browser in self.browsers:
            try:
                browser.call("DELETE", "")
            except (AssertionError, OSError) as failure:
                print(f"a browser could not be closed: {failure}", file=sys.stderr)
        self.process.terminate()
        self.process.wait()

    def call(self, method, path, body=None):
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with DIRECT.open(request, timeout=ANSWER_SECONDS_MAX) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{method} {path}: {json.load(refused)['value']['message']}") from None


class Browser:
    """A browser with a profile of its own: a device."""

    def __init__(self, driver, chromium, profile, *more_flags):
        flags = [*CHROMIUM_FLAGS, f"--user-data-dir={profile}", *more_flags]
        options = {"binary": chromium, "args": flags}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = driver.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.driver, self.path = driver, f"/session/{session['sessionId']}"
        driver.browsers.append(self)

    def call(self, method, path, body=None):
        return self.driver.call(method, self.path + path, body)

    def open(self, address):
        self.call("POST", "/url", {"url": address})

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def element(self, css):
        return next(iter(self.call("POST", "/element", {"using": "css selector", "value": css}).values()))

    def click(self, css):
        """A real click on a button that sends a form; done once the page that follows is there."""
        self.run("window.before = true")
        self.call("POST", f"/element/{self.element(css)}/click")
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while self.run("return window.before === true || document.readyState !== 'complete'"):
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing came of a click on {css}")
            time.sleep(0.02)

    def sign_in(self, name):
        self.call("POST", f"/element/{self.element('input[name=name]')}/value", {"text": name})
        self.click("form[action='/sign-in'] button")

    def add(self, item):
        self.click(f"form[action='/cart/add']:has(input[value={item}]) button")

    def text(self, css):
        return self.run("const e = document.querySelector(arguments[0]); return e && e.textContent", css)

    def cart(self):
        rows = self.run("return [...document.querySelectorAll('#cart tr[data-item]')].map(r => ({...r.dataset}))")
        return {row["item"]: int(row["count"]) for row in rows}

    def devices(self):
        return self.run("return [...document.querySelectorAll('.devices li')].map(e => e.innerText)")

    def cookie(self):
        cookies = self.call("GET", "/cookie")
        return cookies[0] if len(cookies) == 1 else cookies

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def complaints(self):
        """What the browser's console has against the page since the last time."""
        entries = self.call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


def before_the_kill(shop, first, pictures):
    first.open(shop.address)
    check("somebody who only looks gets no cookie", first.cookie() == [], first.cookie())
    first.screenshot(pictures / "1-anonymous.png")
    for item in ("trench", "scarf", "scarf"):
        first.add(item)
    anonymous = first.cookie()
    check("the cookie keeps the rules", (anonymous["httpOnly"], anonymous["sameSite"], anonymous["path"]) == (True, "Lax", "/"))
    check("no script can read it", first.run("return document.cookie") == "")

    first.sign_in(NAME)
    signed_in = first.cookie()
    check("signed in, with the name as it was typed", first.text("#who") == NAME, first.text("#who"))
    check("the cart came along", first.cart() == {"trench": 1, "scarf": 2}, first.cart())
    check("the id is another one now", signed_in["value"] != anonymous["value"])
    _, text, sets_cookie = shop.ask(cookie=f"{anonymous['name']}={anonymous['value']}")
    check("the id from before is dead", "Sign in" in text and "Trench coat</td>" not in text and not sets_cookie)
    first.screenshot(pictures / "2-signed-in.png")
    return signed_in


def stolen_files(shop, cookie):
    """While no shop runs: a running one may remove a file between the look at the folder and the look into the file."""
    folder, token = Path(shop.folder), cookie["value"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in files)
    raw = base64.urlsafe_b64decode(token + "=")
    check("the sessions are in the folder", NAME.split()[0].encode() in everything)
    check("no id is in the files", token.encode() not in everything and raw not in everything)
    modes = {oct(path.stat().st_mode & 0o777) for path in files} | {oct(folder.stat().st_mode & 0o777)}
    check("nobody else may read them", modes <= {"0o600", "0o700"}, modes)


def attacks(shop, cookie):
    planted = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
    for value in ("", "x", "../../etc/passwd", "A" * 5000, planted, f'"{planted}"'):
        status, text, sets_cookie = shop.ask(cookie=f"shop={value}")
        check(f"the cookie {value[:20]!r} is no session", status == 200 and "Sign in" in text and not sets_cookie)
    mine = f"{cookie['name']}={cookie['value']}"
    for headers in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "http://elsewhere.example"}, {}):
        status, _, _ = shop.ask("/sign-out-everywhere", cookie=mine, form=b"", **headers)
        check(f"a form that comes with {headers} is refused", status == 403, status)
    status, text, _ = shop.ask("/?notice=%3Cscript%3E", cookie=mine)
    check("the victim is still signed in", status == 200 and "Sign out everywhere" in text and "<script" not in text)


@contextlib.contextmanager
def in_flight(shop, cookie):
    """Requests that save to the session of this cookie, one upon another from several sides; gives the list of what they are answered."""
    answers, over = [], threading.Event()

    def add():
        while not over.is_set():
            form = {"cookie": f"{cookie['name']}={cookie['value']}", "form": b"item=hat", "Sec_Fetch_Site": "same-origin"}
            answers.append(shop.ask("/cart/add", **form)[0])

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        while len(answers) < 8 and any(thread.is_alive() for thread in threads):
            time.sleep(0.01)
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def with_two_devices(shop, first, second, pictures):
    second.open(shop.address)
    check("the second device begins with nothing", second.cart() == {} and second.text("#who") is None)
    second.sign_in(NAME)
    second.add("hat")
    check("carts belong to devices", second.cart() == {"hat": 1}, second.cart())
    first.open(shop.address)
    labels = [text.splitlines()[0] for text in first.devices()]
    check("both devices are listed", labels == ["Chrome on Linux", "Safari on iPhone"], labels)
    check("one of them is this one", ["this device" in text for text in first.devices()] == [True, False])
    first.screenshot(pictures / "3-two-devices.png")
    second.screenshot(pictures / "4-second-device.png")
    fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    check("the page fits both screens", first.run(fits) and second.run(fits))
    held = second.cookie()

    with in_flight(shop, held) as answers:
        first.click("form[action='/sign-out-everywhere'] button")
    check("requests of the second device were in flight meanwhile", len(answers) > 8 and set(answers) == {200}, set(answers))
    _, text, _ = shop.ask(cookie=f"{held['name']}={held['value']}")
    check("none of them undid it", "Sign in" in text and "Felt hat</td>" not in text)
    check("signed out here", first.text("#who") is None and first.cookie() == [])
    first.screenshot(pictures / "5-signed-out-everywhere.png")
    second.open(shop.address)
    check("signed out there at the next request", second.text("#who") is None and second.cart() == {})
    second.screenshot(pictures / "6-second-device-signed-out.png")
    return held


def end(shop, first, second, held):
    shop.kill()
    shop.start()
    _, text, _ = shop.ask(cookie=f"{held['name']}={held['value']}")
    check("signed out stays signed out after a kill", "Sign out" not in text and "Felt hat</td>" not in text)
    second.sign_in(NAME)
    check("signing in again works", second.text("#who") == NAME and len(second.devices()) == 1, second.devices())
    second.click("form[action='/sign-out'] button")
    check("signing out here works", second.text("#who") is None)
    complaints = first.complaints() + second.complaints()
    check("the browsers have no complaint", complaints == [], complaints)
    code, output = shop.end_with(signal.SIGTERM)
    check("the shop closes when it is told to", code == 0 and output.rstrip().endswith("closed"), f"{code} {output!r}")


def built_shop():
    command = ["cargo", "build", "--release", "--example", "shop", "--message-format=json-render-diagnostics"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    binaries = [message.get("executable") for message in map(json.loads, lines)]
    return next(path for path in reversed(binaries) if path)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--shop", help="the built example; it is built unless given")
    arguments.add_argument("--screenshots", type=Path, help="a folder for them; a new temporary one unless given")
    arguments = arguments.parse_args()
    browser = find_or_install()
    if browser is None:
        print("skipped: Chromium is not here and cannot be installed")
        return
    chromium, driver_path = browser
    pictures = arguments.screenshots or Path(tempfile.mkdtemp(prefix="shop-screenshots-"))
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        shop = Shop(arguments.shop or built_shop(), f"{scratch}/sessions")
        driver = Driver(driver_path)
        try:
            shop.start()
            first = Browser(driver, chromium, f"{scratch}/first", "--window-size=1100,850")
            second = Browser(driver, chromium, f"{scratch}/second", "--window-size=500,1100", f"--user-agent={PHONE}")
            cookie = before_the_kill(shop, first, pictures)
            shop.kill()
            stolen_files(shop, cookie)
            shop.start()
            first.open(shop.address)
            check("still signed in after the kill", first.text("#who") == NAME, first.text("#who"))
            check("the cart is whole", first.cart() == {"trench": 1, "scarf": 2}, first.cart())
            attacks(shop, cookie)
            held = with_two_devices(shop, first, second, pictures)
            end(shop, first, second, held)
        finally:
            driver.end()
            if shop.process:
                shop.process.kill()
                shop.process.wait()
    print(f"all is well; screenshots in {pictures}")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, OSError, subprocess.SubprocessError) as failure:
        sys.exit(f"FAILED: {failure}")
