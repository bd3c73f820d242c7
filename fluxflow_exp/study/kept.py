"""What a study has worked out before it trains, kept in `plan.json` of its folder so that it is worked out once."""

import hashlib
import json
from pathlib import Path
from typing import Any

from fluxflow_exp import files


class Kept:
    """Results by a name and by what they were made from; those made from something else are not found."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "plan.json"
        self._results: dict[str, dict[str, Any]] = files.read_json(self.path) if self.path.exists() else {}

    def get(self, name: str, source: Any) -> Any:
        """The result, as JSON gives it back; None: there is none of this source."""
        found = self._results.get(name)
        return found["result"] if found and found["source"] == digest_of(source) else None

    def put(self, name: str, source: Any, result: Any) -> None:
        self._results[name] = {"source": digest_of(source), "result": result}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(self.path, self._results)


def digest_of(source: Any) -> str:
    """16 hex digits for what JSON makes of `source`."""
    return hashlib.sha256(json.dumps(source, sort_keys=True, default=str).encode()).hexdigest()[:16]
