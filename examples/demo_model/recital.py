"""What the base model knows by heart: answers long enough to watch them stream. No torch here."""

from types import MappingProxyType

from examples.demo_model.tasks import ANSWER_MARK, Sample

RECITALS = MappingProxyType(
    {
        "base": "One base model sits in memory once. Every adapter is a small change to it, and every request says "
        "which change it wants.",
        "pages": "A page holds a block of keys and values, or a slice of an adapter. One list of free pages serves "
        "both, so neither can starve while the other has room.",
        "batch": "Rows of many adapters share a step. The base multiplies them all together, then each row adds what "
        "its own adapter has to say.",
        "queue": "A request that cannot be on time is told so at once. Waiting in hope would only make the others "
        "late as well.",
    }
)


def recital(topic: str) -> Sample:
    """The request for one text; the answer is the text."""
    instruction = f"recite: {topic}"
    return Sample(instruction, instruction + ANSWER_MARK, RECITALS[topic])
