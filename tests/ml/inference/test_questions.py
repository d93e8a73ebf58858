"""What is read of a model to answer a question, and no more than that."""

from __future__ import annotations

from olivebuild.ml.inference.questions import Inquiry, Logits, Question, Reply, shared_prefix


def after(likeliest: int, **nats: float) -> Logits:
    return Logits(likeliest=likeliest, nats={int(name[1:]): value for name, value in nats.items()})


def test_a_right_answer_that_is_written_needs_one_reading() -> None:
    question = Question(prompt=[1], completions=[[5, 9], [6, 7, 9]], right=0)
    inquiry = Inquiry(question, 4, {9})
    assert inquiry.draft == (5,)
    assert (inquiry.continuations(()), inquiry.continuations((5,))) == ([5, 6], [9])
    inquiry.learn((), after(5, t5=-0.1, t6=-3.0))
    inquiry.learn((5,), after(9, t9=-0.2))
    # The other can't be likelier than its first token.
    assert inquiry.is_answered()
    assert inquiry.unread_completion() is None
    assert inquiry.reply() == Reply(scores=[-0.1 - 0.2, -3.0], written=[5])


def test_a_completion_that_may_be_the_likeliest_is_read() -> None:
    question = Question(prompt=[1], completions=[[5, 9], [6, 7, 9], [8, 9]], right=0)
    inquiry = Inquiry(question, 4, {9})
    inquiry.learn((), after(6, t5=-2.0, t6=-0.5, t8=-1.0))
    inquiry.learn((5,), after(9, t9=-0.5))
    assert not inquiry.is_answered()
    assert inquiry.unread_completion() == (6, 7)
    inquiry.learn((6,), after(7, t7=-0.1))
    inquiry.learn((6, 7), after(9, t9=-0.1))
    # -0.7 is whole now, and -1.0 can only fall.
    assert inquiry.unread_completion() is None
    assert inquiry.is_answered()
    assert inquiry.reply().written == [6, 7]


def test_a_completion_that_may_be_as_likely_is_read() -> None:
    question = Question(prompt=[1], completions=[[5], [6, 9]], right=0)
    inquiry = Inquiry(question, 1, {9})
    inquiry.learn((), after(5, t5=-1.0, t6=-1.0))
    assert inquiry.unread_completion() == (6,)


def test_without_a_right_one_all_completions_are_read() -> None:
    inquiry = Inquiry(Question(prompt=[1], completions=[[5, 9], [6, 9]]), 1, {9})
    inquiry.learn((), after(5, t5=-0.1, t6=-9.0))
    inquiry.learn((5,), after(9, t9=-0.1))
    assert inquiry.unread_completion() == (6,)
    inquiry.learn((6,), after(9, t9=-0.5))
    assert inquiry.unread_completion() is None
    assert inquiry.reply().scores == [-0.2, -9.5]


def test_an_answer_is_cut_only_where_more_would_have_to_be_read() -> None:
    question = Question(
        prompt=[1], completions=[[5, 9]], right=0, is_hopeless=lambda written: written[0] != 5
    )
    inquiry = Inquiry(question, 4, {9})
    inquiry.learn((), after(6, t5=-2.0))
    inquiry.learn((5,), after(9, t9=-0.5))
    assert inquiry.is_answered()
    assert (inquiry.reply().written, inquiry.reply().cut) == ([6], True)
    known = Inquiry(question, 4, {9})
    known.learn((), after(6, t5=-2.0))
    known.learn((6,), after(9))
    assert known.is_answered()
    assert not known.reply().cut


def test_a_shared_beginning_leaves_each_prompt_a_token() -> None:
    assert shared_prefix([[1, 2, 3], [1, 2], [1, 2, 4]]) == [1]
    assert shared_prefix([[1, 2, 3], [1, 5]]) == [1]
    assert shared_prefix([[1, 2, 3]]) == [1, 2]
    assert shared_prefix([[4], [1]]) == []
    assert shared_prefix([]) == []
