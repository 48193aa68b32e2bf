"""Scenarios read as transcripts; `python -m tests.sim.transcript` writes them anew after a change that is meant."""

import pytest

from tests.sim.transcript import TESTDATA, play

SCENARIOS = sorted(TESTDATA.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_the_director_does_what_the_transcript_says(path):
    text = path.read_text()
    assert play(text) == text


def test_there_are_transcripts():
    assert len(SCENARIOS) >= 6
