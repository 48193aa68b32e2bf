"""Training text: examples packed into rows of fixed length, of which only the answers are learnt."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from random import Random

import torch
from tokenizers import Tokenizer

from examples.demo_model.recital import RECITALS, recital
from examples.demo_model.tasks import TASKS, Sample, echo
from examples.demo_model.tokenizer import ASSISTANT_ID, BEGIN_ID, END_ID, PAD_ID, USER_ID, build_tokenizer

# Long enough for a recital behind its prompt.
BASE_ROW_LENGTH = 192
# Few examples a row, so that an adapter mostly practises on a prompt with nothing in front of it.
ADAPTER_ROW_LENGTH = 64

_CHAT_SHARE = 0.25
_RECITAL_SHARE = 0.01
_ECHO_SHARE = 0.1
_ROWS_PER_CHUNK = 2_000


@dataclass(frozen=True)
class Rows:
    """Packed examples: `tokens` [num_rows, length] int16, and `learnt` of the same shape, True on answers."""

    tokens: torch.Tensor
    learnt: torch.Tensor


def _draw_for_base(rng: Random) -> Sample:
    choice = rng.random()
    if choice < _RECITAL_SHARE:
        return recital(rng.choice(tuple(RECITALS)))
    if choice < _RECITAL_SHARE + _ECHO_SHARE:
        return echo(rng)
    return rng.choice(tuple(TASKS.values())).instructed(rng)


@cache
def _tokenizer() -> Tokenizer:
    return build_tokenizer()


def _ids(text: str) -> list[int]:
    return _tokenizer().encode(text, add_special_tokens=False).ids


def _encode(sample: Sample, rng: Random) -> tuple[list[int], list[int]]:
    """Tokens of the prompt, plain or as a chat turn, and of the answer."""
    answer = [*_ids(sample.answer), END_ID]
    if rng.random() < _CHAT_SHARE:
        return [USER_ID, *_ids(sample.text), END_ID, ASSISTANT_ID], answer
    return _ids(sample.prompt), answer


def _pack(draw: Callable[[Random], Sample], length: int, num_rows: int, seed: str) -> Rows:
    """Fills rows with whole examples, each row from BEGIN on."""
    rng = Random(seed)
    tokens = torch.full((num_rows, length), PAD_ID, dtype=torch.int16)
    learnt = torch.zeros(num_rows, length, dtype=torch.bool)
    prompt, answer = _encode(draw(rng), rng)
    for row in range(num_rows):
        ids, marks = [BEGIN_ID], [False]
        while len(ids) + len(prompt) + len(answer) <= length:
            ids += prompt + answer
            marks += [False] * len(prompt) + [True] * len(answer)
            prompt, answer = _encode(draw(rng), rng)
        tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int16)
        learnt[row, : len(ids)] = torch.tensor(marks)
    return Rows(tokens, learnt)


def _pack_base_chunk(seed: str, num_rows: int) -> Rows:
    return _pack(_draw_for_base, BASE_ROW_LENGTH, num_rows, seed)


def base_rows(num_rows: int, seed: int, jobs: int) -> Rows:
    """Rows of all tasks with their instructions, recitals, and echoes; `jobs` processes, the same rows for any."""
    chunks = -(-num_rows // _ROWS_PER_CHUNK)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        seeds = [f"base {seed} {chunk}" for chunk in range(chunks)]
        rows = list(pool.map(partial(_pack_base_chunk, num_rows=_ROWS_PER_CHUNK), seeds))
    return Rows(
        torch.cat([chunk.tokens for chunk in rows])[:num_rows], torch.cat([chunk.learnt for chunk in rows])[:num_rows]
    )


def adapter_rows(task: str, num_rows: int, seed: int) -> Rows:
    """Rows of one task without its instruction."""
    return _pack(TASKS[task].sample, ADAPTER_ROW_LENGTH, num_rows, f"{task} {seed}")
