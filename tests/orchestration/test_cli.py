import av
import pytest
from click.testing import CliRunner

from orchestration.cli import _nothing_found, main
from resources.site_store import SiteStore

COMMANDS = [
    "atlas",
    "catalog",
    "dev",
    "doctor",
    "embeddings",
    "gc",
    "generate",
    "init",
    "metrics",
    "migrate",
    "models",
    "open-wave",
    "posttrain",
    "preview",
    "rebuild",
    "rounds",
    "run",
    "search",
    "site-agent",
]
TINY = ("--frames", "5", "--size", "64x36")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, which the command line finds by the environment."""
    folder = tmp_path / "home"
    monkeypatch.setenv("WORLDLOOP_HOME", str(folder))
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    monkeypatch.setenv("COLUMNS", "200")
    for variable in ("WORLDLOOP_SITES", "WORLDLOOP_DEPLOYMENT", "WORLDLOOP_EMBED_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def store(home):
    return SiteStore(url=str(home / "sites" / "local"))


def worldloop(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_help_names_every_command():
    answer = worldloop("--help")

    assert answer.exit_code == 0
    assert [line.split()[0] for line in answer.output.split("Commands:")[1].splitlines()[1:]] == (
        COMMANDS
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does(command):
    answer = worldloop(command, "--help")

    assert answer.exit_code == 0
    assert answer.output.splitlines()[2].strip()


def test_init_lays_out_the_instance_and_keeps_a_changed_one(home):
    assert worldloop("init").exit_code == 0
    settings = home / "dagster" / "dagster.yaml"
    assert "telemetry" in settings.read_text()

    settings.write_text("run_queue: {}\n")
    assert worldloop("init").exit_code == 0
    assert settings.read_text() == "run_queue: {}\n"


def test_preview_writes_a_clip_that_plays(home, tmp_path):
    output = tmp_path / "clips" / "clip.mp4"

    answer = worldloop("preview", "tokyo/museum", "--seed", 3, "-o", output, *TINY)

    assert answer.exit_code == 0, answer.output
    assert "tokyo/museum" in answer.output
    with av.open(str(output)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [frame.shape for frame in frames] == [(36, 64, 3)] * 5
    assert frames[0].std() > 5
    assert [path.name for path in output.parent.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("place", "hint"),
    [("tokio/zoo", "Did you mean 'tokyo'?"), ("tokyo/zo", "Did you mean 'zoo'?")],
)
def test_an_unknown_place_is_one_clear_error_and_leaves_no_file(home, tmp_path, place, hint):
    output = tmp_path / "clips" / "clip.mp4"

    answer = worldloop("preview", place, "-o", output, *TINY)

    assert answer.exit_code == 1
    assert hint in answer.output
    assert answer.output.count("Error:") == 1
    assert "Traceback" not in answer.output
    assert not output.parent.exists()


@pytest.mark.parametrize("command", [("preview",), ("run", "--place"), ("open-wave", "--place")])
def test_a_place_that_no_sketch_shows_is_one_clear_error(home, command):
    answer = worldloop(*command, "samarkand/library")

    assert answer.exit_code == 1
    assert "found 'samarkand/library', expected an institution that the sketch" in answer.output
    assert "amusement_park, hospital, museum, street, zoo. " in answer.output
    assert "--world-model" in answer.output
    assert "starting" not in answer.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tier", "hero"), "--tier without --world-model"),
        (("--control", "depth", "--allow-unguarded"), "--control, --allow-unguarded without"),
        (("--clips", 0), "'--clips': 0 is not in the range"),
    ],
)
@pytest.mark.parametrize("command", ["run", "open-wave"])
def test_what_a_wave_would_not_heed_is_refused(home, command, words, said):
    answer = worldloop(command, "--place", "tokyo/zoo", *words)

    assert answer.exit_code == 2
    assert said in answer.output
    assert not (home / "sites").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seed", -1), "-1 is not in the range"),
        (("--seed", 2**63), "is not in the range"),
        (("--frames", 0), "0 is not in the range"),
        (("-o", "/"), "is a directory"),
    ],
)
def test_a_clip_that_cannot_be_is_refused(home, words, said):
    answer = worldloop("preview", "tokyo/zoo", *TINY, *words)

    assert answer.exit_code == 2
    assert said in answer.output


def test_a_file_that_cannot_be_written_is_one_clear_error(home, tmp_path):
    (tmp_path / "file").write_text("no folder")

    answer = worldloop("preview", "tokyo/zoo", *TINY, "-o", tmp_path / "file" / "clip.mp4")

    assert answer.exit_code == 1
    assert answer.output.count("Error:") == 1
    assert "cannot be written" in answer.output
    assert "--output" in answer.output


@pytest.mark.parametrize("size", ["256", "256x", "axb", "-2x4"])
def test_a_size_that_is_none_is_refused(home, tmp_path, size):
    answer = worldloop("preview", "tokyo/zoo", "-o", tmp_path / "clip.mp4", "--size", size)

    assert answer.exit_code == 2
    assert "write it like 256x144" in answer.output


def test_doctor_says_what_runs_here_and_what_is_optional(home):
    answer = worldloop("doctor")

    rows = {cells[2].strip(): cells for cells in map(_cells, answer.output.splitlines()) if cells}
    assert answer.exit_code == 0, answer.output
    assert rows["torch"][1].strip() == rows["warp-lang"][1].strip() == "ok"
    assert "NVIDIA GPU" in rows


def _cells(line):
    return line.split("│") if line.startswith("│") else []


def test_a_dry_gc_names_leftovers_and_removes_nothing(home, store):
    store.put("packs/w0001/tokyo/orphan.tar", b"left behind")

    dry = worldloop("gc", "--dry-run", "--keep-hours", 0)

    assert dry.exit_code == 0, dry.output
    assert "packs/w0001/tokyo/orphan.tar" in dry.output
    assert "Would free" in dry.output
    assert store.exists("packs/w0001/tokyo/orphan.tar")


def test_gc_removes_leftovers(home, store):
    store.put("packs/w0001/tokyo/orphan.tar", b"left behind")

    assert "Freed" in worldloop("gc", "--keep-hours", 0).output

    assert not store.exists("packs/w0001/tokyo/orphan.tar")


def test_migrate_counts_the_files_that_have_todays_formats(home):
    answer = worldloop("migrate", "--dry-run")

    assert answer.exit_code == 0, answer.output
    assert "0 of 0 files have today's formats." in answer.output


def test_migrate_names_a_damaged_file(home, store):
    store.put("prompts/w0001/tokyo.parquet", b"not a table")

    answer = worldloop("migrate")

    assert answer.exit_code == 1
    assert "prompts/w0001/tokyo.parquet" in answer.output
    assert "run their assets again" in answer.output


@pytest.mark.parametrize(
    ("where", "words", "said"),
    [
        (
            None,
            True,
            "No clip has 'fog' in its caption. Leave out --words to search by what clips show.",
        ),
        ("city = 'lima'", False, "No clip is there with city = 'lima'. Leave out --where."),
        (None, False, "No clip is there."),
    ],
)
def test_a_search_without_an_answer_says_what_to_try(where, words, said):
    assert _nothing_found("fog", where, words=words) == said


def test_clips_are_extracted_into_a_folder_and_not_over_a_file(home, tmp_path):
    (tmp_path / "clips.mp4").write_bytes(b"mine")

    answer = worldloop("search", "fog", "--extract", tmp_path / "clips.mp4")

    assert answer.exit_code == 2
    assert "is a file" in answer.output


def test_a_search_for_nothing_is_refused(home):
    answer = worldloop("search", " ")

    assert answer.exit_code == 2
    assert "write what to look for" in answer.output


def test_searching_an_empty_site_says_how_to_fill_it(home):
    answer = worldloop("search", "rainy night street")

    assert answer.exit_code == 1
    assert "make run" in answer.output


def test_an_unknown_deployment_is_one_clear_error(home, monkeypatch):
    monkeypatch.setenv("WORLDLOOP_DEPLOYMENT", "locl")

    answer = worldloop("migrate")

    assert answer.exit_code == 1
    assert "Did you mean 'local'?" in answer.output


def test_metrics_are_prometheus_text(home, store):
    store.put("packs/w0001/tokyo/a.tar", b"12345")

    answer = worldloop("metrics")

    assert answer.exit_code == 0, answer.output
    assert "# TYPE worldloop_store_bytes gauge" in answer.output
    assert 'worldloop_store_bytes{folder="packs"} 5.0' in answer.output
