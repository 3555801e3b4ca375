from dataclasses import replace

import pytest

from worldloop.cosmos.asking import (
    check_extension,
    check_parallel,
    check_request,
    check_shape,
    nearest_shape,
    task_of,
)
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import MODELS, model
from worldloop.cosmos.requests import ActionTrack, ClipRequest, Conditioning, Control
from worldloop.errors import MalformedRecordError

T2W, V2W = "Cosmos-1.0-Diffusion-7B-Text2World", "Cosmos-1.0-Diffusion-7B-Video2World"
ASKED = ClipRequest("a", "A tram turns into a wet street.")
ON = replace(ASKED, conditioning=Conditioning("first.jpg"))
EDGE = replace(ASKED, controls=(Control("edge", "edge.mp4"),))


def check(request, name, *, shape=None, num_steps=None, guidance=None, sampler=None, **rest):
    one = model(name)
    check_request(
        request,
        model=one,
        shape=shape or one.default_shape,
        num_steps=num_steps or one.default_steps,
        guidance=one.default_guidance if guidance is None else guidance,
        sampler=sampler or one.known_samplers[0],
        **rest,
    )


def usual(one):
    """A request that a model is made for."""
    if one.task == "control2world":
        return EDGE
    if one.task == "action":
        return replace(ON, action=ActionTrack("policy"))
    return ON if one.task in ("video2world", "image2world") else ASKED


@pytest.mark.parametrize("name", MODELS)
def test_every_model_makes_what_it_is_for(name):
    one = model(name)
    shape = one.default_shape
    if one.task == "action":
        shape = replace(shape, num_frames=17)

    check(usual(one), name, shape=shape)


@pytest.mark.parametrize(
    ("request_", "name", "rest", "words"),
    [
        (replace(ASKED, prompt=" "), T2W, {}, "prompt of clip 'a'.*Give --prompt"),
        (replace(ON, prompt=""), V2W, {"upsampler": "text"}, "only an upsampler that reads"),
        (replace(ASKED, prompt="word " * 513), T2W, {}, "found '513 words'.*at most 512"),
        (ASKED, T2W, {"upsampler": "loud"}, "mode of the prompt upsampler"),
        (ASKED, T2W, {"upsampler": "picture"}, "a picture or video to read"),
        (ASKED, V2W, {}, "found 'text2world'.*Give it a picture"),
        (ON, T2W, {}, "found 'image2world'.*choose a Video2World model"),
        (EDGE, "Cosmos-Predict2-2B-Video2World", {}, "found 'control2world'"),
        (replace(ON, conditioning=Conditioning("a.gif")), V2W, {}, "'a.gif'.*.png, .jpg, .jpeg"),
        (replace(ON, conditioning=Conditioning("a.webp")), V2W, {}, "Convert it to .png"),
        (replace(ON, conditioning=Conditioning("a.jpg", 9)), V2W, {}, "is a picture"),
        (replace(ON, conditioning=Conditioning("a.mp4", 5)), V2W, {}, "1 or 9 for Cosmos 1.0"),
        (replace(ASKED, clip_id="x/y"), T2W, {}, "name of a clip: found 'x/y'"),
        (replace(ASKED, seed=-1), T2W, {}, "seed: found -1"),
        (replace(ASKED, sound=True), T2W, {}, "sound by Cosmos-1.0.*Cosmos3-Nano"),
        (ASKED, T2W, {"sampler": "unipc"}, "found 'unipc', expected res or edm_euler"),
        (ASKED, T2W, {"num_steps": -3}, "denoising steps: found -3"),
        (ASKED, T2W, {"guidance": float("nan")}, "guidance: found nan"),
        (ASKED, T2W, {"cp_size": 2}, "cp_size: found 2, expected the number of devices, 1"),
    ],
)
def test_what_cannot_be_is_refused_with_one_clear_error(request_, name, rest, words):
    with pytest.raises(MalformedRecordError, match=words):
        check(request_, name, **rest)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (T2W, ClipShape(57, 1280, 704, 24), "found 57, expected 121.*Ask for 121"),
        (T2W, ClipShape(121, 1920, 1080, 24), "found '1920x1080'.*--width 1280 --height 704"),
        (T2W, ClipShape(121, 600, 800, 24), "--width 704 --height 960"),
        (T2W, ClipShape(121, 1280, 704, 60), "found 60, expected 12 to 40.*Ask for 40"),
        ("Cosmos-Predict2-2B-Video2World", ClipShape(80, 768, 432, 16), "Ask for 81"),
        ("Cosmos-Predict2-2B-Video2World", ClipShape(81, 770, 432, 16), "--width 768"),
        ("Tiny-Cosmos-Predict2.5", ClipShape(10, 64, 64, 24), "Ask for 9"),
    ],
)
def test_a_shape_is_refused_with_the_nearest_legal_one(name, shape, words):
    with pytest.raises(MalformedRecordError, match=words):
        check_shape(shape, model=model(name))


def test_the_predict2_example_is_legal():
    check_shape(ClipShape(81, 768, 432, 16), model=model("Cosmos-Predict2-2B-Video2World"))


def test_tiny_models_take_small_shapes_of_their_strides():
    check_shape(ClipShape(17, 96, 48, 30), model=model("Tiny-Cosmos-1.0-Text2World"))


@pytest.mark.parametrize("name", [name for name, one in MODELS.items() if not one.tiny])
def test_the_nearest_shape_is_legal(name):
    near = nearest_shape(ClipShape(50, 1000, 333, 7), model=model(name))

    check_shape(near, model=model(name))


def test_an_upsampler_that_reads_the_picture_needs_no_words():
    check(replace(ON, prompt=""), V2W, upsampler="picture")


def test_edges_may_be_computed_from_the_video_but_depth_may_not():
    given = replace(ASKED, conditioning=Conditioning("clip.mp4"))
    check(replace(given, controls=(Control("edge"),)), "Cosmos-Transfer2.5-2B")

    with pytest.raises(MalformedRecordError, match="only edge and blur can be computed"):
        check(replace(given, controls=(Control("depth"),)), "Cosmos-Transfer2.5-2B")


def test_a_negative_control_weight_is_refused():
    with pytest.raises(MalformedRecordError, match="control_weight of edge: found -1"):
        check(replace(EDGE, controls=(Control("edge", "a.mp4", -1.0),)), "Cosmos-Transfer2.5-2B")


def test_actions_need_one_frame_more_than_actions():
    follow = replace(ON, action=ActionTrack("forward_dynamics", "track.json", chunk_size=16))

    with pytest.raises(MalformedRecordError, match="found 189, expected 17"):
        check(follow, "Cosmos3-Nano")


def test_a_policy_model_only_answers_actions():
    clip = Conditioning("clip.mp4", 17)
    follow = replace(ON, conditioning=clip, action=ActionTrack("inverse_dynamics"))

    with pytest.raises(MalformedRecordError, match="expected policy"):
        check(follow, "Cosmos3-Nano-Policy-DROID", shape=ClipShape(17, 832, 480, 24))


def test_actions_are_read_from_a_whole_clip():
    first = replace(
        ON, conditioning=Conditioning("clip.mp4", 5), action=ActionTrack("inverse_dynamics")
    )

    with pytest.raises(MalformedRecordError, match="found 5, expected 17 for Cosmos 3"):
        check(first, "Cosmos3-Nano", shape=ClipShape(17, 832, 480, 24))


def test_edge_makes_no_sound():
    check(replace(ASKED, sound=True), "Cosmos3-Nano")
    with pytest.raises(MalformedRecordError, match="sound by Cosmos3-Edge"):
        check(replace(ASKED, sound=True), "Cosmos3-Edge")


def test_a_distilled_model_keeps_its_steps():
    with pytest.raises(MalformedRecordError, match="found 35, expected 4"):
        check(ON, "Cosmos3-Super-Image2Video-4Step", num_steps=35)


@pytest.mark.parametrize(("cp_size", "fine"), [(1, True), (4, True), (8, True), (3, False)])
def test_ranks_divide_the_heads(cp_size, fine):
    if fine:
        check_parallel(model=model(T2W), cp_size=cp_size, num_devices=cp_size)
        return
    with pytest.raises(MalformedRecordError, match=r"divisor of its 32 heads.*Use 2"):
        check_parallel(model=model(T2W), cp_size=cp_size, num_devices=cp_size)


def test_nine_devices_are_too_many():
    with pytest.raises(MalformedRecordError, match="expected 1 to 8"):
        check_parallel(model=model(T2W), cp_size=9, num_devices=9)


@pytest.mark.parametrize(
    ("name", "frames", "overlap", "words"),
    [
        (T2W, 300, 9, "goes on from video"),
        (V2W, 300, 5, "found 5, expected 1 or 9"),
        (V2W, 100, 9, "more than the 121"),
    ],
)
def test_long_videos_go_on_from_legal_frames(name, frames, overlap, words):
    shape = model(name).default_shape
    with pytest.raises(MalformedRecordError, match=words):
        check_extension(
            model=model(name), shape=shape, extend_to_frames=frames, overlap_frames=overlap
        )


def test_the_task_follows_from_what_is_given():
    clip, still = ClipShape(93, 64, 64, 16), ClipShape(1, 64, 64, 16)

    assert task_of(ASKED, clip) == "text2world"
    assert task_of(ASKED, still) == "text2image"
    assert task_of(ON, clip) == "image2world"
    assert task_of(replace(ON, conditioning=Conditioning("a.MP4", 5)), clip) == "video2world"
    assert task_of(EDGE, clip) == "control2world"
