"""A later turn of a conversation, made whole once the answer to the one before is known."""

from __future__ import annotations

from dataclasses import replace

from llmbench.engines.wire import ChatMessage, GenerationRequest


def continued(request: GenerationRequest, before: GenerationRequest, answer: str) -> GenerationRequest:
    """`request`, which holds its own words alone, behind everything that was said until then.

    `before` is the turn before as it was sent, so with its own history, and `answer` the whole text it got. A chat gets
    the answer as the assistant's message; a completion goes on in a new line.
    """
    if before.messages is not None:
        assert request.messages is not None
        answered = ChatMessage(role="assistant", content=answer)
        return replace(request, messages=(*before.messages, answered, *request.messages))
    assert before.prompt is not None
    assert request.prompt is not None
    return replace(request, prompt=f"{before.prompt}{answer}\n{request.prompt}")
