"""Is the committed code of the contracts what the contracts generate? `python -m tests.quality.generated_code`.

Generates everything into a folder of its own and compares byte for byte, so a hand-edited, a stale and a left-over file
are all found, and nothing of the checkout is touched.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(protos: Path, into: Path) -> None:
    """Generate the Python of every contract, as `make protos` does.

    Raises:
        subprocess.CalledProcessError: a contract does not compile; the compiler has said why.
    """
    plugins = Path(sys.executable).parent  # protoc looks for protoc-gen-mypy in PATH, where a venv need not be
    outputs = [f"--python_out={into}", f"--grpc_python_out={into}"]
    for kind in ("mypy", "mypy_grpc"):
        outputs += [f"--plugin=protoc-gen-{kind}={plugins / f'protoc-gen-{kind}'}", f"--{kind}_out=quiet:{into}"]
    contracts = sorted(str(file.relative_to(protos)) for file in protos.glob("kip/**/*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", *outputs, *contracts], check=True, cwd=protos
    )


def code_below(folder: Path) -> Mapping[str, bytes]:
    """Return the generated files below `folder/kip`, by their path in it."""
    files = (file for pattern in GENERATED for file in folder.glob(f"kip/**/{pattern}"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def stale(committed: Mapping[str, bytes], fresh: Mapping[str, bytes]) -> list[str]:
    """Return a line per file that differs, is missing, or belongs to no contract any more."""
    changed = [f"{path}: differs" for path in committed.keys() & fresh.keys() if committed[path] != fresh[path]]
    missing = [f"{path}: is missing" for path in fresh.keys() - committed.keys()]
    left_over = [f"{path}: no contract makes it; delete it" for path in committed.keys() - fresh.keys()]
    return sorted([*changed, *missing, *left_over])


def main() -> int:
    """Compare, and name what is stale."""
    with tempfile.TemporaryDirectory(prefix="kip-protos-") as folder:
        try:
            generate(PROTOS, Path(folder))
        except subprocess.CalledProcessError:
            print("No code can be generated: mend the contract that is named above.", file=sys.stderr)
            return 1
        lines = stale(code_below(PROTOS), code_below(Path(folder)))
    if lines:
        print("Generated code is stale; run `make protos`:", *lines, sep="\n  ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
