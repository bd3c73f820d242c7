"""Shards that are read front to back from the network or a command.

A reader (one worker of one rank) has a slot: it reads every n-th of the epoch's shuffled shards. What it gives is a
function of (seed, epoch, slot, slots), so that a run continues exactly with the same number of readers.
"""

import http.client
import io
import os
import random
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from fluxflow_exp.data import tar
from fluxflow_exp.data.images import Entry, ImageTransform, is_held_out, load
from fluxflow_exp.data.protocols import Bad, BadSampleError, Sample
from fluxflow_exp.data.several_captions import entry_of
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.seeding import derive

ATTEMPTS, FIRST_DELAY, TIMEOUT = 5, 2.0, 60.0  # of a connection; seconds, doubled each time
HELD_OUT_SEARCH = 50  # held-out images are looked for among this many times as many samples
Raw = tuple[str, dict[str, bytes | tar.Unusable]]  # key, members


class Streamed:
    """The training samples of `urls`; `epoch_size` of them are an epoch."""

    varies = "streamed shards have no index"

    def __init__(
        self,
        urls: list[str],
        keys: tar.Keys,
        transform: ImageTransform,
        *,
        fraction: float,
        epoch_size: int,
        buffer: int,
        token_env: str | None,
    ) -> None:
        if token_env is not None and token_env not in os.environ:
            raise ValueError(f"token_env: the environment has no variable {token_env}")
        if epoch_size < 1 or buffer < 1:
            raise ValueError(f"epoch_size and shuffle_buffer must be at least 1, not {epoch_size}, {buffer}")
        self.urls, self.keys, self.transform, self.fraction = urls, keys, transform, fraction
        self.epoch_size, self.buffer, self.token_env = epoch_size, buffer, token_env
        self.max_readers = len(urls)

    def __len__(self) -> int:
        return self.epoch_size

    def samples(self, *, seed: int, epoch: int, slot: int, slots: int, skip: int) -> Iterator[tuple[Sample, Bad]]:
        """A slot's samples of an epoch without end, the first `skip` left out; each with the bad ones before it.

        UserError: none of the slot's shards holds a sample, or one cannot be read.
        """
        count, bad, fruitless = 0, Bad(), 0
        for name, members in self._shuffled(seed, epoch, slot, slots, bad):
            if count < skip:  # given out, or counted as bad, before the interruption
                count += self._usable(members)
                continue
            rng = random.Random(derive(seed, "augment", epoch, slot, slots, count))
            try:
                sample = self._decode(name, members, rng)
            except BadSampleError as error:
                bad.append((error.sample, error.reason))
                fruitless += 1
                if fruitless > 1000:
                    raise UserError(f"1000 streamed samples in a row cannot be read; the last: {error}") from error
                continue
            count, fruitless = count + 1, 0
            yield sample, bad[:]
            bad.clear()

    def held_out(self, count: int) -> list[Entry]:
        """The first `count` held-out samples of the shards in the order given, kept in memory."""
        found: list[Entry] = []
        seen = 0
        for url in self.urls:
            for key, members in self._read(url, Bad()):
                seen += 1
                if is_held_out(key, self.fraction):
                    try:
                        captions = self.keys.captions_of(members, bytes)
                        found.append(entry_of(key, captions, self.keys.image_of(members)))
                    except ValueError:
                        continue  # counted when training meets the like
                if len(found) >= count or seen >= HELD_OUT_SEARCH * count:
                    return found
        return found

    def _shuffled(self, seed: int, epoch: int, slot: int, slots: int, bad: Bad) -> Iterator[Raw]:
        """Shards in a new order each pass, samples through a shuffle buffer."""
        rng = random.Random(derive(seed, "stream", epoch, slot, slots))
        held: list[Raw] = []
        passes = 0
        while True:
            urls = list(self.urls)
            random.Random(derive(seed, "shards", epoch, passes)).shuffle(urls)
            fresh = 0
            for url in urls[slot::slots]:
                for key, members in self._read(url, bad):
                    if is_held_out(key, self.fraction):
                        continue
                    fresh += 1
                    held.append((key, members))
                    if len(held) > self.buffer:
                        place = rng.randrange(len(held))
                        held[place], held[-1] = held[-1], held[place]
                        yield held.pop()
            if not fresh:
                names = ", ".join(shown(url) for url in urls[slot::slots][:3])
                raise UserError(f"the streamed shards {names} hold no training sample")
            passes += 1
            rng.shuffle(held)
            yield from held
            held = []

    def _usable(self, members: dict[str, bytes | tar.Unusable]) -> bool:
        """Whether a skipped sample was given out before; decoding tells, as it did then."""
        try:
            self._decode("", members, random.Random(0))
        except BadSampleError:
            return False
        return True

    def _decode(self, name: str, members: dict[str, bytes | tar.Unusable], rng: random.Random) -> Sample:
        try:
            image = self.keys.image_of(members)
            entry = entry_of(name, self.keys.captions_of(members, bytes), image)
        except ValueError as error:
            raise BadSampleError(name, str(error)) from error
        size = (self.transform.img_size, self.transform.img_size)
        return load(entry, lambda: io.BytesIO(image), self.transform, size, rng)

    def _read(self, url: str, bad: Bad) -> Iterator[Raw]:
        """The samples of a shard; after a broken connection it is opened again and read on. UserError: gone."""
        given, delay = 0, FIRST_DELAY
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with opened(url, self.token_env) as file:
                    for position, raw in enumerate(tar.stream(file)):
                        if position >= given:
                            given = position + 1
                            yield raw
                return
            except tarfile.TarError as error:
                bad.append((shown(url), f"the shard is damaged after {counted(given, 'sample')}: {error}"))
                return
            except (OSError, http.client.HTTPException) as error:
                if attempt == ATTEMPTS or _final(error):
                    raise UserError(f"cannot read the shard {shown(url)}: {error}") from error
                time.sleep(delay)
                delay *= 2


@contextmanager
def opened(url: str, token_env: str | None) -> Iterator[IO[bytes]]:
    """The bytes of an address or of a command's output. OSError: there are none."""
    if url.startswith("pipe:"):
        with subprocess.Popen(url.removeprefix("pipe:"), shell=True, stdout=subprocess.PIPE) as process:
            assert process.stdout
            try:
                yield process.stdout
                process.stdout.read()  # to its end, so that the command is not broken off before it says how it went
            except tarfile.TarError as error:
                if process.wait() != 0:
                    raise OSError(f"the command ended with exit status {process.returncode}") from error
                raise
            if process.wait() != 0:
                raise OSError(f"the command ended with exit status {process.returncode}")
        return
    request = urllib.request.Request(url)
    if token_env is not None:
        # Not sent on to where the hub redirects: that is another host, and has its own signature in the address.
        request.add_unredirected_header("Authorization", f"Bearer {os.environ[token_env]}")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        yield cast(IO[bytes], response)


def shown(url: str) -> str:
    """An address for logs: without the query, which may hold a signature."""
    return url if url.startswith("pipe:") else url.partition("?")[0]


def _final(error: Any) -> bool:
    """Whether trying again cannot help: the server says no."""
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)
