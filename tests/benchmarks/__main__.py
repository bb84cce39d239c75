"""What is promised of speed, and the page that tells of it: python -m tests.benchmarks [NAME …]

With DATABASE_URL of PostgreSQL; what SQLite is promised is measured beside it. Each driver keeps
its table below build/benchmarks, and the page is made of what is there: those that are named are
measured anew, the others are told as they were last time. With `page` none is measured.
"""

import os
import subprocess
import sys
from collections.abc import Mapping

from tests.benchmarks.page import write_page

DRIVERS = ("drain", "latency", "save", "growth", "memory", "end_to_end")


def main() -> None:
    wanted = sys.argv[1:] or DRIVERS
    for name in DRIVERS:
        if name in wanted:
            run(name, os.environ)
    if "drain" in wanted and "DATABASE_URL" in os.environ:
        run("drain", {key: value for key, value in os.environ.items() if key != "DATABASE_URL"})
    print(f"Written: {write_page()}")


def run(name: str, environment: Mapping[str, str]) -> None:
    print(f"\n{name}", flush=True)
    command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
    subprocess.run(command, env=dict(environment), check=True)


if __name__ == "__main__":
    main()
