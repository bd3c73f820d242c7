"""Whether a server answers at all, asked once before the libraries that fetch from it.

Those of Hugging Face try five times, for 25 s, each of the files that they look for, and say nothing meanwhile, even
where all of them are in the cache.
"""

import os
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SECONDS = 10.0  # that an answer may take, as with Hugging Face's own libraries


@lru_cache
def silence(address: str) -> str:
    """Why `address` does not answer; empty: it does, whatever it says. Asked once a process, for SECONDS at most."""
    said: list[str] = []
    # A host may have a dozen addresses, each of which is waited for, and so is the resolver.
    asking = threading.Thread(target=lambda: said.append(_ask(address)), daemon=True)
    asking.start()
    asking.join(SECONDS)
    why = said[0] if said else f"not within {SECONDS:g} s"
    return f"{address} does not answer ({why})" if why else ""


def _ask(address: str) -> str:
    """Why it does not answer; empty: it does."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=SECONDS).close()
    except HTTPError:
        return ""
    except Exception as error:  # of any address that the environment names
        why = getattr(error, "reason", error)
        if isinstance(why, ssl.SSLError):
            return ""  # it is there; whom to trust is for the library that fetches
        return str(getattr(why, "strerror", None) or why or type(error).__name__)
    return ""


def check(address: str) -> None:
    """ConnectionError: it does not answer. A download would wait for minutes where packets are dropped."""
    silent = silence(address)
    if silent:
        raise ConnectionError(silent)


@contextmanager
def hub(what: str) -> Iterator[str]:
    """Inside, the libraries of Hugging Face look for `what` in their cache alone if the hub does not answer.

    What is given is why nothing is to be had from it; empty: it answers.
    """
    from huggingface_hub import constants

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    silent = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else silence(address)
    places: list[Any] = [constants, getattr(sys.modules.get("datasets"), "config", None)]
    before = [(place, place.HF_HUB_OFFLINE) for place in places if place]
    if silent:
        if not constants.HF_HUB_OFFLINE:
            _say(f"Note: {silent}: {what} is looked for on this machine alone")
        for place, _ in before:
            place.HF_HUB_OFFLINE = True
    try:
        yield silent
    finally:
        for place, offline in before:
            place.HF_HUB_OFFLINE = offline


@lru_cache
def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
