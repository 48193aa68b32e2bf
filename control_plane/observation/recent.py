"""The requests that ended last, so that an operator can ask what became of one."""

from collections import OrderedDict
from dataclasses import replace

from control_plane.observation.record import RequestRecord


class RecentRequests:
    """Keeps the last `max_requests` that ended, without their prompts; of an id used twice, the last use."""

    def __init__(self, max_requests: int) -> None:
        self.size = max_requests
        self._records: OrderedDict[str, RequestRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, request_id: str) -> RequestRecord | None:
        """The record, if it is remembered."""
        return self._records.get(request_id)

    def arrived(self, record: RequestRecord) -> None:
        """Nothing to keep before the end."""

    def placed(self, record: RequestRecord) -> None:
        """Nothing to keep before the end."""

    def ended(self, record: RequestRecord) -> None:
        """Keeps it, and forgets the oldest."""
        request_id = record.request.request_id
        record.request = replace(record.request, prompt_token_ids=())
        self._records[request_id] = record
        self._records.move_to_end(request_id)
        while len(self._records) > self.size:
            self._records.popitem(last=False)
