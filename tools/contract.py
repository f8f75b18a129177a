"""The protobuf contract's tool: generate what is made from it, lint it, find breaking changes.

Nothing here needs a registry. googleapis' .proto files are in the googleapis-common-protos
wheel; protovalidate's wheel has no .proto, but carries the descriptor of
`buf/validate/validate.proto`, which protoc reads as a descriptor set.

Usage: python tools/contract.py stubs | check-stubs | lint | breaking
"""

from __future__ import annotations

import filecmp
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import google.type
import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "client"
STUB_PACKAGES = ("orderflow", "buf")
VALIDATE_PROTO = "buf/validate/validate.proto"
DESCRIPTORS = ROOT / "deploy" / "envoy" / "orderflow.binpb"
"""What Envoy makes JSON from."""
DESCRIBED = (
    "orderflow/v1/order_service.proto",
    # What a failed call says of itself: google.rpc.Status holds the details as Any.
    "google/rpc/status.proto",
    "google/rpc/error_details.proto",
)

WELL_KNOWN_TYPES = Path(grpc_tools.__file__).parent / "_proto"
GOOGLEAPIS = Path(google.type.__path__[0]).parent.parent


def run_protoc(proto_dir: Path, scratch: Path, files: Sequence[str], *outputs: str) -> None:
    """Runs protoc on `files` under `proto_dir`; raises SystemExit with its status."""
    descriptors = scratch / "validate.binpb"
    descriptors.write_bytes(_validate_descriptor_set())
    status = protoc.main(  # type: ignore[no-untyped-call]  # it carries no types
        [
            "protoc",
            f"--proto_path={proto_dir}",
            f"--proto_path={GOOGLEAPIS}",
            f"--proto_path={WELL_KNOWN_TYPES}",
            f"--descriptor_set_in={descriptors}",
            *outputs,
            *files,
        ]
    )
    if status != 0:
        raise SystemExit(status)


def _validate_descriptor_set() -> bytes:
    """buf/validate/validate.proto and what it imports, as a FileDescriptorSet."""
    validate = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    files = descriptor_pb2.FileDescriptorSet()
    for dependency in validate.dependency:
        module = dependency.removesuffix(".proto").replace("/", ".") + "_pb2"
        __import__(module)
        sys.modules[module].DESCRIPTOR.CopyToProto(files.file.add())
    files.file.append(validate)
    return files.SerializeToString()


def contract_files(proto_dir: Path) -> list[str]:
    return sorted(str(p.relative_to(proto_dir)) for p in proto_dir.rglob("*.proto"))


def write_stubs(target: Path) -> None:
    """Generates every stub below `target`, from nothing."""
    files = contract_files(PROTO)
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(
            PROTO,
            Path(scratch),
            [*files, VALIDATE_PROTO],
            f"--python_out={target}",
            f"--mypy_out=readable_stubs,quiet:{target}",
        )
        services = [f for f in files if "\nservice " in (PROTO / f).read_text()]
        run_protoc(
            PROTO,
            Path(scratch),
            services,
            f"--grpc_python_out={target}",
            f"--mypy_grpc_out=quiet:{target}",
        )
    for package in STUB_PACKAGES:
        (target / package / "py.typed").touch()


def write_descriptors(target: Path) -> None:
    """Writes the descriptors of the order service, with all that they import."""
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(
            PROTO,
            Path(scratch),
            DESCRIBED,
            "--include_imports",
            f"--descriptor_set_out={target}",
        )


def stubs() -> None:
    for package in STUB_PACKAGES:
        shutil.rmtree(STUBS / package, ignore_errors=True)
    write_stubs(STUBS)
    write_descriptors(DESCRIPTORS)


def check_stubs() -> None:
    """Fails when the committed stubs and descriptors are not what the contract generates."""
    with tempfile.TemporaryDirectory() as fresh:
        write_stubs(Path(fresh))
        stale = [
            str(name)
            for package in STUB_PACKAGES
            for name in _differences(Path(fresh), STUBS, Path(package))
        ]
        descriptors = Path(fresh) / DESCRIPTORS.name
        write_descriptors(descriptors)
        if not DESCRIPTORS.exists() or DESCRIPTORS.read_bytes() != descriptors.read_bytes():
            stale.append(str(DESCRIPTORS.relative_to(ROOT)))
    if stale:
        raise SystemExit("stubs are stale, run `make stubs`:\n  " + "\n  ".join(stale))


def _differences(left: Path, right: Path, package: Path) -> list[Path]:
    names = {
        path.relative_to(root)
        for root in (left, right)
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    _, mismatched, missing = filecmp.cmpfiles(left, right, sorted(map(str, names)), shallow=False)
    return [Path(name) for name in (*mismatched, *missing)]


def write_image(proto_dir: Path, image: Path) -> None:
    """Writes what buf reads in place of its own build: every file, its imports, its comments."""
    run_protoc(
        proto_dir,
        image.parent,
        contract_files(proto_dir),
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={image}",
    )


def buf(*arguments: str) -> None:
    status = subprocess.run(["buf", *arguments], cwd=ROOT, check=False).returncode
    if status != 0:
        raise SystemExit(status)


def lint() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        write_image(PROTO, image)
        buf("lint", str(image), "--path", "orderflow")


def breaking() -> None:
    """Compares the contract with the one of the last release tag, or of main before any release."""
    baseline = _baseline()
    if baseline is None:
        print("buf breaking: skipped, neither a release tag nor main holds a contract yet")
        return
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        old = subprocess.run(
            ["git", "archive", "--format=tar", baseline, "proto"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(old)) as archive:
            archive.extractall(scratch / "old", filter="data")
        (scratch / "new").mkdir()
        write_image(scratch / "old" / "proto", scratch / "old" / "image.binpb")
        write_image(PROTO, scratch / "new" / "image.binpb")
        buf(
            "breaking",
            str(scratch / "new" / "image.binpb"),
            "--against",
            str(scratch / "old" / "image.binpb"),
            "--path",
            "orderflow",
        )
        print(f"buf breaking: nothing broken since {baseline}")


def _baseline() -> str | None:
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v*")
    candidates = [tag] if tag else ["origin/main", "main"]
    return next((c for c in candidates if _git("ls-tree", "--name-only", c, "proto")), None)


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )
    return result.stdout.strip() if result.returncode == 0 else ""


COMMANDS = {
    "stubs": stubs,
    "check-stubs": check_stubs,
    "lint": lint,
    "breaking": breaking,
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        raise SystemExit(__doc__)
    COMMANDS[sys.argv[1]]()
