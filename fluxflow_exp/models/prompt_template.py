"""The words around a caption, and which tokens of a prompt are its caption's.

A language model reads `before`, the caption, `after`. A prompt that is too long loses the end of its caption, never
what stands behind it. Tokens that begin before the caption or after its end can be left out of what an image model
sees; through attention the others know them.
"""

from typing import Any, Literal, NamedTuple

PLACE = "{caption}"
CHAT = "chat"  # the template that the tokenizer has with it, of its model's dialogues
_MARK = "the-caption-stands-here"

Drop = Literal["before", "around"]


class PromptTemplate(NamedTuple):
    before: str = ""
    after: str = ""
    special: bool = True  # whether the tokenizer adds its own tokens; a dialogue has them written out


class Prompt(NamedTuple):
    tokens: list[int]
    first: int  # of the tokens that are kept
    end: int  # behind the last of them


def make_template(tokenizer: Any, template: str | None, system: str | None) -> PromptTemplate:
    """What `template` says: a text with {caption} in it, `chat`, or nothing. ValueError: none of these, or no chat."""
    if template == CHAT:
        return _of_chat(tokenizer, system)
    if system is not None:
        raise ValueError(f"system_prompt={system!r} belongs to template={CHAT}: put it into the template itself")
    if template is None:
        return PromptTemplate()
    if template.count(PLACE) != 1:
        raise ValueError(f"template={template!r} must have {PLACE} in it, once, or be {CHAT}")
    before, _, after = template.partition(PLACE)
    return PromptTemplate(before, after)


def read(
    tokenizer: Any, template: PromptTemplate, captions: list[str], *, max_length: int, drop: Drop | None
) -> list[Prompt]:
    """Each caption in its template, `max_length` tokens at most. Of each at least one token is kept."""
    found = tokenizer(
        [f"{template.before}{caption}{template.after}" for caption in captions],
        add_special_tokens=template.special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    prompts = []
    start = len(template.before)
    for row, caption in enumerate(captions):
        tokens, end = found["input_ids"][row], start + len(caption)
        if drop is None and 0 < len(tokens) <= max_length:  # where the caption stands in them does not matter
            prompts.append(Prompt(tokens, 0, len(tokens)))
            continue
        own = [not each for each in found["special_tokens_mask"][row]]
        places = found["offset_mapping"][row]
        words = [i for i in range(len(tokens)) if own[i]]
        # What the tokenizer adds stands around everything else.
        head = next((i for i in words if places[i][1] > start or places[i][0] >= end), words[-1] + 1 if words else 0)
        tail = next((i for i in words if i >= head and places[i][0] >= end), words[-1] + 1 if words else head)
        room = max(max_length - head - (len(tokens) - tail), 0)
        cut = min(tail, head + room)
        prompts.append(_kept([*tokens[:cut], *tokens[tail:]], head, cut, drop, tokenizer.pad_token_id))
    return prompts


def check_length(tokenizer: Any, template: PromptTemplate, max_length: int) -> None:
    """ValueError: the template leaves a caption no room."""
    (empty,) = read(tokenizer, template, [""], max_length=max_length, drop=None)
    if template != PromptTemplate() and len(empty.tokens) >= max_length:
        raise ValueError(
            f"the template alone has {len(empty.tokens)} tokens, and max_length={max_length} leaves no room for a "
            f"caption: shorten it, or raise max_length above {len(empty.tokens)}"
        )


def _kept(tokens: list[int], head: int, tail: int, drop: Drop | None, filler: int) -> Prompt:
    """`head`, `tail`: where the caption's tokens begin and end."""
    if not tokens:  # nothing was said: attention needs something to look at all the same
        return Prompt([filler], 0, 1)
    first, end = head if drop else 0, tail if drop == "around" else len(tokens)
    # A causal model's last token has seen all of the prompt.
    return Prompt(tokens, first, end) if first < end else Prompt(tokens, len(tokens) - 1, len(tokens))


def _of_chat(tokenizer: Any, system: str | None) -> PromptTemplate:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ValueError(
            f"template={CHAT}: the tokenizer has no chat template. Write one, template='…{PLACE}…', or set "
            "template=null for the caption alone"
        )
    roles = ([{"role": "system", "content": system}] if system is not None else []) + [
        {"role": "user", "content": _MARK}
    ]
    try:
        text = tokenizer.apply_chat_template(roles, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ValueError(f"template={CHAT}: the model's chat template refuses the dialogue: {error}") from error
    before, mark, after = text.partition(_MARK)
    if not mark or _MARK in after:
        raise ValueError(f"template={CHAT}: the model's chat template does not hold what the user says, once")
    return PromptTemplate(before, after, special=False)
