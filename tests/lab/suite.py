"""A very small test runner: functions named after the rule they show, in order, one line each, a count at the end."""
import sys, time, traceback
from . import host
from .host import LabError


class Skip(Exception):
    """The test cannot run on this machine; the text says why."""


class Broken(Exception):
    """The rule does not hold; the text says what was seen."""


def must(condition, text):
    """The rule: `condition` holds, or the test fails with `text`."""
    if not condition:
        raise Broken(text)


_tests = []


def test(function):
    """Marks a test."""
    _tests.append(function)
    return function


def run(after_failure=lambda: None):
    """Run all marked tests, or those whose names contain a word of the command line. Exits 1 if any failed."""
    host.arm()
    words = sys.argv[1:]
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for function in _tests:
        name = function.__name__
        if words and not any(w in name for w in words):
            continue
        began = time.monotonic()
        try:
            note = function()
            outcome, line = "passed", f"test {name} ... ok{f' ({note})' if note else ''}"
        except Skip as e:
            outcome, line = "skipped", f"skipped: {name}: {e}"
        except Exception as e:  # one broken test must not hide the others
            outcome, line = "failed", f"test {name} ... FAILED: {e}"
            if not isinstance(e, (Broken, LabError)):
                traceback.print_exc()
            after_failure()
        counts[outcome] += 1
        host.say(f"{line} [{time.monotonic() - began:.1f} s]")
    host.cleanup()
    host.say("counted: " + ", ".join(f"{n} {k}" for k, n in counts.items()))
    sys.exit(1 if counts["failed"] else 0)
