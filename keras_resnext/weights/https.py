"""Opens an address for reading, by https; a plain http server may only be this machine's own."""

import email.message
import http.client
import ipaddress
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_HANDLERS = (  # not build_opener's, which know file:, ftp: and data:
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
)


class AddressError(OSError):
    """An address that is not to be fetched from, or that leads to one; trying again does not help."""


@dataclass(frozen=True)
class Answer:
    """What a server sends.

    Attributes:
        body: status, headers and content.
        sha256: of the whole file in hex, where the server named it, as Hugging Face's hub does; "" elsewhere.
    """

    body: http.client.HTTPResponse
    sha256: str


def open_address(url: str, headers: dict[str, str], timeout: float, seconds: float) -> Answer:
    """The answer to GET, redirects followed.

    Args:
        url: https, or http on loopback; so is every address that it leads to, and from https the way stays https.
        headers: of the request.
        timeout: seconds without a byte.
        seconds: until the answer's headers are there, whatever trickles in.

    Raises:
        AddressError: another kind of address, or too many redirects.
        OSError, http.client.HTTPException: no answer, or an error as the answer.
    """
    _check(url, "")
    answers: list[Answer | Exception] = []

    def ask() -> None:
        try:
            answers.append(_follow(url, headers, timeout))
        except ValueError as error:  # of an address that cannot be taken apart, or has letters that hosts have not
            answers.append(AddressError(f"{url} leads to what is no address: {error}"))
        except Exception as error:
            answers.append(error)

    # A server that sends a byte of a header now and then never times out; the one who reads cannot be interrupted.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if not answers:
        raise TimeoutError(f"no answer in {seconds:.0f} seconds")
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def _follow(url: str, headers: dict[str, str], timeout: float) -> Answer:
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    sha256 = ""
    for _ in range(MOST_REDIRECTS + 1):
        try:
            body = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
            return Answer(body, sha256 or _named_hash(body.headers))
        except urllib.error.HTTPError as error:
            place = error.headers.get("Location")
            if error.code not in _REDIRECTS or not place:
                raise
            sha256 = sha256 or _named_hash(error.headers)
            error.close()
            target = urllib.parse.urljoin(url, place)
            _check(target, f"{url} leads to ")
            if url.lower().startswith("https:") and not target.lower().startswith("https:"):
                raise AddressError(f"{url} leads to {target}, which is not https") from None
            url = target
    raise AddressError(f"more than {MOST_REDIRECTS} redirects")


def _named_hash(headers: email.message.Message) -> str:
    """The hub redirects to where a large file is and names its SHA-256 in this header."""
    found = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', headers.get("X-Linked-ETag", ""))
    return found[1] if found else ""


def _check(url: str, before: str) -> None:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host:
        return
    if parts.scheme != "http" or not _is_loopback(host):
        raise AddressError(f"{before}{url}, which is not https")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
