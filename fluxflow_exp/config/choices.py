"""The files of a configuration's groups: those that are shipped, and those of the user's own folder."""

from pathlib import Path

from hydra.core.override_parser.types import Override

from fluxflow_exp.config.compose import conf_dir


def choices(group: str, config_dir: str | None) -> list[str]:
    """The shipped choices of a group, and those of the user's own folder. Of Hydra's own groups: not looked at."""
    if group.startswith("hydra"):
        return []
    folders = [Path(conf_dir()), *([Path(config_dir)] if config_dir else [])]
    return list(dict.fromkeys(p.stem for folder in folders for p in sorted((folder / group).glob("*.yaml"))))


def is_group(name: str, config_dir: str | None) -> bool:
    return any((Path(folder) / name).is_dir() for folder in (conf_dir(), config_dir) if folder)


def place_of_loss(override: Override, config_dir: str | None) -> str | None:
    """Return the line of a loss's file that puts it into a step, where it was put nowhere."""
    if override.key_or_group != "loss" or override.package:
        return None
    return _placed(str(override.value()), config_dir)


def loss_at(key: str, config_dir: str | None) -> str | None:
    """The loss that a trainer has at `key`: the one called so, or whose file says that it goes there."""
    leaf, losses = key.rpartition(".")[2], choices("loss", config_dir)
    if leaf in losses:
        return leaf
    return next((name for name in losses if f".{leaf}=" in (_placed(name, config_dir) or "")), None)


def _placed(loss: str, config_dir: str | None) -> str | None:
    """The line of a loss's file that puts it into a step."""
    for folder in [config_dir, conf_dir()]:
        path = Path(folder or "") / "loss" / f"{loss}.yaml"
        for line in path.read_text(encoding="utf-8").splitlines() if folder and path.is_file() else []:
            if line.startswith("# +loss@"):
                return line.removeprefix("# ")
    return None
