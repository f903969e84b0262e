"""The sample extensions as WebAssembly modules, built the way examples/extensions says."""
from pathlib import Path
from . import host

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/extensions"


def build(name):
    """The module made from examples/extensions/NAME.c."""
    host.need("clang", "lld")
    made = host.work() / f"{name}.wasm"
    if not made.exists():
        host.sh("clang", "--target=wasm32", "-O2", "-mbulk-memory", "-nostdlib", "-Wl,--no-entry", "-o", made, EXAMPLES / f"{name}.c")
    return made
