import http.server
import json
import threading

import dagster as dg
import pytest

from resources.prompt_upsampler import PromptUpsampler
from worldloop.atlas.atlas import load_atlas
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.prompts.facts import missing_facts
from worldloop.prompts.prose import write_prose
from worldloop.prompts.rewriting import cleaned, faults
from worldloop.scenes.casting import cast_scenes

ATLAS = load_atlas()
PLACES = ["tokyo/library", "lima/market", "nairobi/museum", "oslo/street"]
SCENES = cast_scenes(ATLAS, PLACES, [3, 4, 5, 6])
PROSE = [write_prose(scene, ATLAS) for scene in SCENES]


@pytest.fixture
def endpoint():
    """A server on loopback that speaks `/v1/chat/completions`; `answer(prose)` makes its text."""

    class Endpoint(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with self.server.lock:
                self.server.asked.append((self.path, self.headers.get("Authorization"), body))
                status = self.server.statuses.pop(0) if self.server.statuses else 200
            prose = body["messages"][1]["content"].split("\n")[1]
            text = json.dumps({"choices": [{"message": {"content": self.server.answer(prose)}}]})
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        server.asked, server.statuses, server.lock = [], [], threading.Lock()
        server.answer = rewritten
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def rewritten(prose):
    """Another wording that keeps every fact."""
    first, *rest = prose.split(". ")
    return ". ".join([first, *reversed([line.removesuffix(".") for line in rest])]) + "."


def upsampler(server, **options):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return PromptUpsampler(backend="endpoint", model="some-model", url=url, wait_s=0.01, **options)


def test_it_is_off_unless_somebody_asks_for_it():
    done = PromptUpsampler().rewrite(SCENES, PROSE, ATLAS)
    assert done.texts == PROSE
    assert done.num_accepted == done.num_refused == done.num_failed == 0


def test_answers_that_keep_every_fact_are_used(endpoint):
    done = upsampler(endpoint).rewrite(SCENES, PROSE, ATLAS)
    assert done.num_accepted == len(SCENES)
    assert done.texts != PROSE
    assert all(not missing_facts(t, s, ATLAS) for t, s in zip(done.texts, SCENES, strict=True))
    paths, keys, bodies = zip(*endpoint.asked, strict=True)
    assert set(paths) == {"/v1/chat/completions"}
    assert set(keys) == {None}
    assert {body["model"] for body in bodies} == {"some-model"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda prose: prose.replace("Tokyo", "Osaka"), "city"),
        (lambda prose: "A lovely place.", "words"),
        (lambda prose: f"{prose} A banner reads \u201cSALE\u201d.", "invented sign"),
        (lambda prose: prose.split(". ")[0], "details"),
        (lambda prose: f"{prose} {prose}", "words"),
    ],
)
def test_answers_with_a_fault_are_refused_and_our_prose_stays(endpoint, answer, reason):
    endpoint.answer = answer
    done = upsampler(endpoint).rewrite(SCENES[:1], PROSE[:1], ATLAS)
    assert (done.texts, done.num_refused) == (PROSE[:1], 1)
    assert done.reasons[reason] == 1


def test_a_passing_failure_is_asked_again_and_a_lasting_one_leaves_our_prose(endpoint):
    endpoint.statuses = [503, 429, 200]
    done = upsampler(endpoint, num_retries=2).rewrite(SCENES[:1], PROSE[:1], ATLAS)
    assert (done.num_accepted, len(endpoint.asked)) == (1, 3)
    endpoint.statuses = [500, 500]
    done = upsampler(endpoint, num_retries=1).rewrite(SCENES[:1], PROSE[:1], ATLAS)
    assert (done.num_failed, done.texts) == (1, PROSE[:1])
    endpoint.statuses = [401]
    done = upsampler(endpoint).rewrite(SCENES[:1], PROSE[:1], ATLAS)
    assert (done.num_failed, len(endpoint.asked)) == (1, 6)  # a refusal is not asked again


def test_an_endpoint_that_is_gone_leaves_our_prose():
    gone = PromptUpsampler(
        backend="endpoint", model="m", url="http://127.0.0.1:9/v1", num_retries=1, wait_s=0.01
    )
    done = gone.rewrite(SCENES, PROSE, ATLAS)
    assert (done.num_failed, done.texts) == (len(SCENES), PROSE)


def test_kept_answers_are_not_asked_for_again_but_by_another_model(endpoint, tmp_path):
    first = upsampler(endpoint, cache_folder=str(tmp_path)).rewrite(SCENES, PROSE, ATLAS)
    again = upsampler(endpoint, cache_folder=str(tmp_path)).rewrite(SCENES, PROSE, ATLAS)
    assert again.texts == first.texts
    assert (again.num_cached, len(endpoint.asked)) == (len(SCENES), len(SCENES))
    other = upsampler(endpoint, cache_folder=str(tmp_path), revision="b")
    assert other.rewrite(SCENES[:1], PROSE[:1], ATLAS).num_cached == 0


def test_a_damaged_kept_answer_is_asked_for_again(endpoint, tmp_path):
    upsampler(endpoint, cache_folder=str(tmp_path)).rewrite(SCENES[:1], PROSE[:1], ATLAS)
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text('{"ans')
    done = upsampler(endpoint, cache_folder=str(tmp_path)).rewrite(SCENES[:1], PROSE[:1], ATLAS)
    assert (done.num_cached, done.num_accepted) == (0, 1)


def test_the_key_is_looked_up_where_it_is_kept(endpoint, monkeypatch):
    monkeypatch.setenv("SOME_PROMPT_KEY", "k-1")
    upsampler(endpoint, api_key="env:SOME_PROMPT_KEY").rewrite(SCENES[:1], PROSE[:1], ATLAS)
    assert endpoint.asked[0][1] == "Bearer k-1"
    with pytest.raises(StoreError, match="NOT_THERE"):
        upsampler(endpoint, api_key="env:NOT_THERE").rewrite(SCENES[:1], PROSE[:1], ATLAS)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"backend": "magic", "model": "m"}, "backend"),
        ({"backend": "endpoint", "url": "http://127.0.0.1"}, "model"),
        ({"backend": "endpoint", "model": "m", "url": "127.0.0.1"}, "url"),
    ],
)
def test_a_wrong_configuration_is_refused(options, what):
    with pytest.raises(MalformedRecordError, match=what):
        PromptUpsampler(**options).rewrite(SCENES, PROSE, ATLAS)


def test_a_local_model_is_asked_in_batches_and_its_nonsense_refused(tmp_path):
    from gpu_jobs.cosmos_generate.tiny.speakers import write_speaker

    write_speaker(tmp_path, says="a lovely place", architecture="llama")
    local = PromptUpsampler(
        backend="transformers", model=str(tmp_path), batch_size=3, max_new_tokens=4
    )
    done = local.rewrite(SCENES, PROSE, ATLAS)
    assert (done.num_refused, done.texts) == (len(SCENES), PROSE)
    assert done.reasons["city"] == len(SCENES)


def test_a_local_model_without_chat_template_can_be_right(tmp_path):
    from gpu_jobs.cosmos_generate.tiny.speakers import write_speaker

    write_speaker(tmp_path, says=rewritten(PROSE[0]), architecture="llama", chat=False)
    local = PromptUpsampler(backend="transformers", model=str(tmp_path), max_new_tokens=4)
    done = local.rewrite(SCENES[:1], PROSE[:1], ATLAS)
    assert (done.num_accepted, done.texts) == (1, [rewritten(PROSE[0])])


def test_the_wrong_side_of_the_road_is_a_fault():
    street, text = SCENES[3], PROSE[3]
    assert faults(text, street, ATLAS) == []
    assert "side" in " ".join(faults(f"{text} Everyone drives on the left.", street, ATLAS))


def test_wrapping_of_an_answer_is_taken_off():
    assert cleaned('```\n"A  street\nin Oslo."\n```') == "A street in Oslo."


def test_the_asset_reports_what_became_of_the_answers(endpoint, tmp_path):
    from assets.prompts import prompts
    from resources.site_store import SiteStore
    from resources.wave_plans import publish_plan
    from worldloop.recipes import Shape
    from worldloop.waves import plan_wave

    store = SiteStore(url=str(tmp_path))
    plan = plan_wave(
        ATLAS, wave="w0001", places=["tokyo/zoo"], clips_per_place=2, seed=1, shape=Shape()
    )
    publish_plan(store, plan)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("wave", ["w0001"])
        result = dg.materialize(
            [prompts],
            partition_key=dg.MultiPartitionKey({"city": "tokyo", "wave": "w0001"}),
            resources={"store": store, "prompt_upsampler": upsampler(endpoint)},
            instance=instance,
        )
    (event,) = result.asset_materializations_for_node("prompts")
    assert event.metadata["num_upsampled"].value == 2
    assert event.metadata["num_upsampling_refused"].value == 0
