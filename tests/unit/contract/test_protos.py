"""The protos read as documentation: every message, field, value and method says what it is."""

import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "protos").rglob("*.proto"))
FIELD = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The compiled descriptors of our files, with their comments."""
    target = tmp_path_factory.mktemp("protos") / "set.bin"
    names = [str(path) for path in FILES]
    well_known = Path(protoc.__file__).parent / "_proto"
    code = protoc.main(
        ["protoc", f"-I{ROOT / 'protos'}", f"-I{well_known}", f"-o{target}", "--include_source_info", *names]
    )
    assert code == 0
    return descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file


def _named(file):
    """Every element of a file that needs a comment, as (path, name)."""
    for i, message in enumerate(file.message_type):
        yield (4, i), message.name
        for j, field in enumerate(message.field):
            yield (4, i, 2, j), f"{message.name}.{field.name}"
        for j, oneof in enumerate(message.oneof_decl):
            if not oneof.name.startswith("_"):
                yield (4, i, 8, j), f"{message.name}.{oneof.name}"
    for i, enum in enumerate(file.enum_type):
        yield (5, i), enum.name
        for j, value in enumerate(enum.value):
            yield (5, i, 2, j), f"{enum.name}.{value.name}"
    for i, service in enumerate(file.service):
        yield (6, i), service.name
        for j, method in enumerate(service.method):
            yield (6, i, 2, j), f"{service.name}.{method.name}"


def test_everything_is_commented(files):
    bare = []
    for file in files:
        comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        bare += [f"{file.name}: {name}" for path, name in _named(file) if not comments.get(path, "").strip()]
    assert not bare


def test_no_unsigned_integers(files):
    unsigned = {FIELD.TYPE_UINT32, FIELD.TYPE_UINT64, FIELD.TYPE_FIXED32, FIELD.TYPE_FIXED64}
    assert not [
        f"{message.name}.{field.name}"
        for file in files
        for message in file.message_type
        for field in message.field
        if field.type in unsigned
    ]


def test_enums_begin_with_unspecified(files):
    for file in files:
        for enum in file.enum_type:
            prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
            assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
            assert all(value.name.startswith(prefix) for value in enum.value)


def test_requests_and_responses_belong_to_one_method_each(files):
    seen = set()
    for file in files:
        for service in file.service:
            for method in service.method:
                assert method.input_type.rpartition(".")[2] == f"{method.name}Request"
                assert method.output_type.rpartition(".")[2] == f"{method.name}Response"
                assert method.name not in seen
                seen.add(method.name)


def test_counts_and_sizes_carry_their_unit(files):
    suffixes = ("_count", "_bytes", "_ms", "_tokens", "_size", "_id", "_ids")
    for file in files:
        for message in file.message_type:
            for field in message.field:
                if field.name.startswith(("num_", "total_", "max_")) and field.name != "max_tokens":
                    assert field.name.endswith(suffixes), f"{message.name}.{field.name}"
