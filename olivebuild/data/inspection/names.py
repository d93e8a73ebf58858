"""Names that columns of published data have, by what they hold."""

from __future__ import annotations

ASKED = (
    "instruction", "prompt", "question", "query", "input", "text", "sentence", "phrase",
    "utterance", "review", "message", "content", "body", "document", "comment", "description",
    "article", "passage", "title",
)  # fmt: skip
"""Names of inputs, the likeliest first."""
ANSWERED = (
    "output", "response", "completion", "answer", "answers", "chosen", "target", "label_text",
    "label", "labels", "label_name", "class", "summary", "translation", "reply", "highlights",
)  # fmt: skip
"""Names of answers that leave no doubt, the likeliest first."""
CATEGORIES = (
    "category", "intent", "sentiment", "emotion", "tone", "topic", "rating", "stars", "score",
    "priority", "status", "type", "genre", "department", "queue",
)  # fmt: skip
"""Names of what a row may be sorted by: several of them make a choice."""
OTHER = (
    "id", "idx", "index", "uuid", "guid", "url", "link", "date", "time", "timestamp", "created_at",
    "source", "split", "lang", "language", "rejected", "rejected_response", "metadata", "meta",
)  # fmt: skip
"""Names of what is about a row, and taken for input or answer only where nothing else is there."""
CHATS = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "chosen")
"""Names of columns of conversations, the likeliest first."""
CONTEXTS = {
    ("instruction", "input"),
    ("instruction", "context"),
    ("question", "context"),
    ("question", "passage"),
    ("prompt", "input"),
    ("prompt", "context"),
    ("query", "context"),
}
"""Pairs of a question's column and that of its context, which may be empty."""
TWINS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
"""Pairs of columns that are one input together."""
TOOLS = ("tools", "functions")
"""Names of columns with the tools that a conversation may call."""


def lower(name: str) -> str:
    """Return a column's name as these lists have it."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def rank(name: str, names: tuple[str, ...]) -> int:
    """Return the place of a column's name in a list, or its length."""
    plain = lower(name)
    return names.index(plain) if plain in names else len(names)
