import os
import subprocess
import sys

from orchestration.terminal import chatter_in


def test_what_jobs_say_goes_to_the_file_and_progress_to_the_terminal(tmp_path, capfd):
    log = tmp_path / "deep" / "run.log"

    with chatter_in(log) as terminal:
        os.write(1, b"a library speaks\n")
        subprocess.run([sys.executable, "-c", "print('a job speaks')"], check=True)
        terminal.write("progress\n")
    os.write(1, b"afterwards\n")

    shown = capfd.readouterr()
    assert log.read_text() == "a library speaks\na job speaks\n"
    assert (shown.out, shown.err) == ("afterwards\n", "progress\n")
