"""Python in a fresh process, with this package and nothing else of the tests."""

import json
import subprocess
import sys


def run(code, environment, *arguments):
    """The JSON that ``code`` prints last; stderr is the failure's text."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
