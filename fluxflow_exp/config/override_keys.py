"""The keys that overrides name."""


def key_of(word: str) -> str:
    """The key that an override sets, adds or takes out."""
    return word.partition("=")[0].lstrip("+~")


def merged(first: list[str], second: list[str]) -> list[str]:
    """Both lists of overrides; of those that name one key, the second's."""
    named = {key_of(word) for word in second}
    return [*(word for word in first if key_of(word) not in named), *second]
