"""The start is quick, and a reader that stops reading is no error: measured in processes of their own."""

import os
import subprocess
import sys
import time

HELP = "import sys\nfrom foreknow.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
NOT_LOADED = (
    "assert not {'torch', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules), 'a heavy import at the start'\n"
)


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def test_import_and_help_are_quick_and_load_nothing_heavy():
    codes = {"pass": "pass", "import": f"import sys, foreknow\n{NOT_LOADED}", "help": HELP + NOT_LOADED}
    least = dict.fromkeys(codes, float("inf"))
    for _ in range(5):  # in turn, so that a busy moment of the machine meets all three
        for name, code in codes.items():
            least[name] = min(least[name], seconds(code))
    # Bare Python starts in 0.02 s or less; where it takes longer now, the machine is busy with other work.
    busy = max(least["pass"] / 0.02, 1.0)
    assert least["import"] - least["pass"] <= 0.15 * busy
    assert least["help"] - least["pass"] <= 0.5 * busy


def test_a_reader_that_stops_reading_is_met_with_silence():
    code = (
        "import typer\nfrom foreknow.cli.common import guarded, show_table\napp = typer.Typer()\n"
        "@app.command()\n@guarded\ndef verb(rich: bool = False) -> None:\n"
        "    show_table('', ('a',), [['x']]) if rich else typer.echo('x')\n"
        "app()"
    )
    for flag in ("--rich", "--no-rich"):
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = subprocess.run([sys.executable, "-c", code, flag], stdout=write_end, stderr=subprocess.PIPE, timeout=30)
        os.close(write_end)
        assert (done.stderr, done.returncode) == (b"", 1), flag
