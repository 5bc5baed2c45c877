"""Dialogues in the notations that public data uses -> one instruction and its answer.

Recognised: lists of {role, content} (TRL, OpenAI), lists of {from, value} (ShareGPT), and one string of
"\\n\\nHuman: ... \\n\\nAssistant: ..." turns (HH-RLHF).
"""

from __future__ import annotations

import re
from typing import Any

from rlp_engine.data.columns import clean_text, kind_of, shown
from rlp_engine.errors import DataError

Messages = list[dict[str, str]]

ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "system": "system",
}
SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")


def is_hh_dialogue(text: str) -> bool:
    """Whether the string is a dialogue in the notation of HH-RLHF."""
    return text.startswith(("\n\nHuman:", "Human:")) and "\n\nAssistant:" in text


def messages_of(value: Any, name: str) -> Messages:
    """A dialogue in any notation as {role, content}, roles `user`, `assistant`, `system`.

    Neighbours of one role are joined by a blank line: chat templates want the roles to alternate.

    Raises:
        DataError: an unknown role, or content that is not text; `name` is the column it stands in.
    """
    if isinstance(value, str):
        turns = _hh_turns(clean_text(value, name))
    elif isinstance(value, dict):
        turns = [_turn(value, name)]
    elif isinstance(value, list):
        turns = [_turn(item, name) for item in value]
    else:
        raise DataError(f"`{name}` is {kind_of(value)}, want a list of messages")
    joined: Messages = []
    for role, content in turns:
        if joined and joined[-1]["role"] == role:
            joined[-1]["content"] += "\n\n" + content
        else:
            joined.append({"role": role, "content": content})
    return joined


def instruction_of(messages: Messages, name: str) -> tuple[str, dict[str, Any]]:
    """(instruction, meta) of a dialogue that waits for an answer.

    A single question is the instruction. Anything longer is written out turn by turn, and kept in
    meta["messages"] as well, so that a chat template can show it as a dialogue.
    """
    if not messages or messages[-1]["role"] != "user":
        last = messages[-1]["role"] if messages else "nobody"
        raise DataError(f"the dialogue in `{name}` does not end with a question: its last turn is by {last}")
    if len(messages) == 1:
        return messages[0]["content"], {}
    text = "\n\n".join(f"{SPEAKERS[turn['role']]}: {turn['content']}" for turn in messages)
    return text, {"messages": messages}


def split_answer(messages: Messages, name: str) -> tuple[Messages, str]:
    """(the dialogue before, the assistant's last turn)."""
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(f"the dialogue in `{name}` does not end with an answer of the assistant")
    return messages[:-1], messages[-1]["content"]


def _turn(item: Any, name: str) -> tuple[str, str]:
    if not isinstance(item, dict):
        raise DataError(f"`{name}` holds {kind_of(item)}, want messages of {{role, content}}")
    role = item.get("role", item.get("from"))
    content = item.get("content", item.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"`{name}` has a turn by {shown(role)}, want one of {', '.join(ROLES)}")
    return ROLES[role], clean_text(content, f"{name}, a turn's content")


def _hh_turns(text: str) -> list[tuple[str, str]]:
    parts = _TURN.split(text)[1:]  # what stands before the first speaker is empty
    return [(ROLES[speaker.lower()], content) for speaker, content in zip(parts[::2], parts[1::2], strict=True)]
