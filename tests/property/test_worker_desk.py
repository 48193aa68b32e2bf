"""Whatever control planes and engine do: a request ends once, tokens come in order, adapters stay while used."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from multitude.v1 import sampling_pb2, worker_pb2
from tests.unit.worker_server.bench import Bench, adapter, digest, request
from worker.codec import request_from_proto
from worker.errors import Code, EngineCrashedError
from worker.serving.stream import DispatchStream
from worker.types import EngineRequest, FinishReason, RequestFailure, SequenceOutput

WINDOW = 4
STOP = "ab"


@dataclass
class Seen:
    """What a control plane knows of a request that it sent, and what the engine made of it."""

    token_ids: list[int]
    made: list[int]
    accepted: bool = False
    text: str = ""
    num_ends: int = 0


@dataclass
class Client:
    """One control plane: its stream, the credits that it gave, its requests by id and how often it used each."""

    stream: DispatchStream
    num_credits: int
    num_steps: int = 0
    open: dict[str, Seen] = field(default_factory=dict)
    ended: list[Seen] = field(default_factory=list)


class DeskMachine(RuleBasedStateMachine):
    """Control planes and an engine with no timing of their own around the real desk."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(request_window=WINDOW, message_tokens=2)
        self.bench.host.hosted = {digest("x"), digest("y")}
        self.live: dict[str, EngineRequest] = {}  # in the engine
        self.made: dict[str, list[int]] = {}  # by the engine, for each key
        self.all_clients: list[Client] = []
        self.num_read = 0
        self.is_lost = False

    @rule(target=clients, credits=st.integers(1, 3))
    def attach(self, credits: int) -> Client:  # noqa: A002
        client = Client(self.bench.desk.open_stream("cp", step_credits=credits), credits)
        self.all_clients.append(client)
        return client

    @rule(client=consumes(clients))
    def leave(self, client: Client) -> None:
        self.bench.desk.close_stream(client.stream)
        self.all_clients.remove(client)

    @rule(
        client=clients,
        number=st.integers(0, 5),
        name=st.sampled_from(["", "x", "y"]),
        resumed=st.sampled_from(["", "a"]),
    )
    def send(self, client: Client, number: int, name: str, resumed: str) -> None:
        request_id = f"r{number}"
        message = request(
            request_id,
            adapter=adapter(name) if name else None,
            stop=sampling_pb2.StopConditions(strings=[STOP]),
            resumed_token_ids=resumed.encode(),
        )
        is_new = request_id not in client.open
        has_room = len(client.open) < WINDOW
        self.bench.desk.accept(client.stream, [request_from_proto(message)])
        if is_new and has_room and not self.is_lost:
            client.open[request_id] = Seen(list(resumed.encode()), list(resumed.encode()))
            for engine_request in self.bench.engine.submitted:
                self.live[engine_request.request_id] = engine_request
                self.made[engine_request.request_id] = client.open[request_id].made
        self.bench.engine.submitted.clear()

    @rule(client=clients, number=st.integers(0, 5))
    def cancel(self, client: Client, number: int) -> None:
        self.bench.desk.cancel(client.stream, f"r{number}")

    @rule(client=clients, count=st.integers(1, 3))
    def credit(self, client: Client, count: int) -> None:
        client.num_credits += count
        client.stream.add_credits(count)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """The engine tells cancels first, then gives some of its requests a token, and ends some."""
        failures = []
        outputs = [
            SequenceOutput(key, finish_reason=FinishReason.CANCELLED)
            for key in self.bench.engine.cancelled
            if self.live.pop(key, None)
        ]
        self.bench.engine.cancelled.clear()
        for key in list(self.live):
            match data.draw(st.sampled_from("caaccbccc.!-")):
                case "-":
                    continue
                case ".":
                    outputs.append(SequenceOutput(key, finish_reason=FinishReason.STOP))
                    del self.live[key]
                case "!":
                    failures.append(RequestFailure(key, "INTERNAL", "oh", code=Code.INTERNAL))
                    del self.live[key]
                case char:
                    self.made[key].append(ord(char))
                    is_last = data.draw(st.integers(0, 7)) == 7
                    outputs.append(
                        SequenceOutput(key, (ord(char),), finish_reason=FinishReason.LENGTH if is_last else None)
                    )
                    if is_last:
                        del self.live[key]
        self.bench.step(*outputs, failures=failures)

    @rule()
    def lose_engine(self) -> None:
        if len(self.live) > 3:
            self.is_lost = True
            self.live.clear()
            self.bench.lose_engine(EngineCrashedError("gone"))

    @rule(client=clients)
    def read(self, client: Client) -> None:
        while (message := client.stream.next_message(self.bench.status.read)) is not None:
            self._hear(client, message)

    @invariant()
    def an_adapter_is_leased_as_long_as_the_engine_may_read_it(self) -> None:
        leased = sorted(request.adapter.digest for request in self.live.values() if request.adapter)
        assert sorted(self.bench.host.leases) == leased

    @invariant()
    def steps_have_credits(self) -> None:
        for client in self.all_clients:
            assert client.num_steps <= client.num_credits

    def teardown(self) -> None:
        """Left alone, everything ends."""
        for key in self.bench.engine.cancelled:
            self.live.pop(key, None)
        failures = [RequestFailure(key, "INTERNAL", "the end") for key in self.live]
        cancelled = [SequenceOutput(key, finish_reason=FinishReason.CANCELLED) for key in self.bench.engine.cancelled]
        self.live.clear()
        self.bench.step(*cancelled, failures=failures)
        for client in self.all_clients:
            client.num_credits += 1000
            client.stream.add_credits(1000)
            self.read(client)
            assert client.open == {}
            assert client.stream.is_idle
            assert all(seen.accepted and seen.num_ends == 1 for seen in client.ended)
        assert self.bench.host.leases == []

    def _hear(self, client: Client, message: worker_pb2.DispatchResponse) -> None:
        for request_id in message.ack.accepted_request_ids:
            assert not client.open[request_id].accepted
            client.open[request_id].accepted = True
        client.num_steps += message.HasField("step")
        for output in message.step.outputs:
            seen = client.open[output.request_id]
            assert seen.accepted
            seen.token_ids += output.token_ids
            seen.text += output.text
            assert seen.token_ids == seen.made[: len(seen.token_ids)]
            whole = bytes(seen.token_ids).decode()
            if output.finish_reason:
                self._check_end(seen, whole, output.finish_reason)
                self._end(client, output.request_id)
            else:
                assert seen.text in whole
                assert STOP not in whole
        for failure in message.step.failures:
            self._end(client, failure.request_id)

    def _check_end(self, seen: Seen, whole: str, reason: int) -> None:
        """The text is that of the tokens, without what was resumed, up to the stop string."""
        text = whole[: whole.index(STOP)] if STOP in whole else whole
        assert text.endswith(seen.text)
        if STOP in whole:
            assert whole.endswith(STOP)
            assert reason == sampling_pb2.FINISH_REASON_STOP
        else:
            assert seen.token_ids == seen.made

    def _end(self, client: Client, request_id: str) -> None:
        seen = client.open.pop(request_id)
        seen.num_ends += 1
        client.ended.append(seen)


TestDesk = DeskMachine.TestCase
TestDesk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
