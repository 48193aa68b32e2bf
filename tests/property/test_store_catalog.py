"""The catalog against a model of it, under any sequence of calls and restarts."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapter_store.config import Limits
from adapter_store.errors import AdapterNotFound, TooManyVersions, VersionNotFound
from adapter_store.library import Library
from tests.unit.adapter_store.peft_directories import MODEL, adapter_tensors, write_directory

IDS = ["a/a", "a/b", "a/b/c", "b/a", "b/Z"]
MAX_VERSIONS = 3
NUM_CONTENTS = 5

ids = st.sampled_from(IDS)
contents = st.integers(0, NUM_CONTENTS - 1)


class CatalogMachine(RuleBasedStateMachine):
    """`expected` maps ids to contents, oldest first; `digests` maps contents to the digests that they had."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.directories = [
            write_directory(self.folder / f"adapter{seed}", tensors=adapter_tensors(seed=seed))
            for seed in range(NUM_CONTENTS)
        ]
        self.now = 0
        self.expected: dict[str, list[int]] = {}
        self.digests: dict[int, str] = {}
        self.library = self.open_library()

    def open_library(self) -> Library:
        return Library(self.folder / "data", MODEL, Limits(max_versions_per_adapter=MAX_VERSIONS), self.tick)

    def tick(self) -> int:
        self.now += 1
        return self.now

    @rule(adapter_id=ids, content=contents)
    def publish(self, adapter_id: str, content: int) -> None:
        known = self.expected.get(adapter_id, [])
        try:
            publication = self.library.publish(adapter_id, self.directories[content], "")
        except TooManyVersions:
            assert len(known) == MAX_VERSIONS
            assert content not in known
            return
        assert publication.created == (content not in known)
        assert self.digests.setdefault(content, publication.version.digest) == publication.version.digest
        if publication.created:
            self.expected.setdefault(adapter_id, []).append(content)
        assert publication.adapter == self.library.get(adapter_id)

    @rule(adapter_id=ids)
    def delete_all(self, adapter_id: str) -> None:
        contents = self.expected.pop(adapter_id, None)
        try:
            num_deleted = self.library.delete(adapter_id, None)
        except AdapterNotFound:
            assert contents is None
            return
        assert contents is not None
        assert num_deleted == len(set(contents) - self.named())

    @rule(adapter_id=ids, content=contents)
    def delete_one(self, adapter_id: str, content: int) -> None:
        digest = self.digests.get(content, "sha256:" + "0" * 64)
        known = self.expected.get(adapter_id)
        try:
            num_deleted = self.library.delete(adapter_id, digest)
        except AdapterNotFound:
            assert known is None
            return
        except VersionNotFound:
            assert known is not None
            assert content not in known
            return
        assert known is not None
        known.remove(content)
        if not known:
            del self.expected[adapter_id]
        assert num_deleted == (content not in self.named())

    @precondition(lambda self: self.expected)
    @rule()
    def restart(self) -> None:
        self.library.close()
        self.library = self.open_library()

    @rule(prefix=st.sampled_from(["", "a", "a/", "a/b", "b/", "c"]), size=st.integers(1, 3))
    def list_in_pages(self, prefix: str, size: int) -> None:
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = self.library.page(after, prefix, size)
            assert len(page.adapters) <= size
            found += [adapter.adapter_id for adapter in page.adapters]
            after = page.next_after
        assert found == sorted(name for name in self.expected if name.startswith(prefix))

    @invariant()
    def holds_what_was_published(self) -> None:
        for adapter_id in IDS:
            try:
                versions = self.library.get(adapter_id).versions
            except AdapterNotFound:
                assert adapter_id not in self.expected
                continue
            assert [v.digest for v in versions] == [self.digests[c] for c in reversed(self.expected[adapter_id])]
            assert [v.created_at_us for v in versions] == sorted((v.created_at_us for v in versions), reverse=True)

    @invariant()
    def keeps_the_weights_that_are_named_and_no_others(self) -> None:
        data = self.folder / "data"
        named = {self.digests[content] for content in self.named()}
        assert {f"sha256:{path.name}" for path in (data / "blobs").glob("*/*")} == named
        assert not list((data / "staging").iterdir())
        for digest in named:
            self.library.open_weights(digest).close()

    def named(self) -> set[int]:
        return {content for contents in self.expected.values() for content in contents}

    def teardown(self) -> None:
        self.library.close()
        shutil.rmtree(self.folder)


TestCatalog = CatalogMachine.TestCase
TestCatalog.settings = settings(max_examples=25, stateful_step_count=25, deadline=None, database=None)
