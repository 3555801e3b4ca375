"""A scene in about 120 words: one grounded moment, stated plainly, with little talk of the camera.

Each clause has several phrasings; the seed of the scene chooses, so that scenes differ in wording
as well as in facts. No clause says what the scene does not hold.
"""

from collections.abc import Callable, Sequence

from worldloop.atlas.atlas import Atlas
from worldloop.prompts.words import (
    CROWDS,
    NAMES,
    an,
    capital,
    clock,
    compass,
    daypart,
    joined,
    num_words,
    participle,
    person,
    present,
    things,
    weather_word,
    when,
)
from worldloop.scenes.scene import Role, Scene, Sign, Subject
from worldloop.seeds import stream

RIDES = ("ferris wheel", "carousel", "roller coaster")
MIN_WORDS, MAX_WORDS = 100, 140
SIGNS_QUOTED = 3
NEGATIVE_PROMPT = (
    "Blurry or noisy picture, over-sharpened edges, blown highlights, crushed shadows, flicker, "
    "sudden cuts, jerky or sliding motion, people or animals with extra or missing limbs, melting "
    "shapes, objects that pass through each other, floating objects, unreadable or invented "
    "letters on signs, traffic on the wrong side of the road, subtitles, logos and watermarks."
)
PLACES: dict[str, tuple[str, ...]] = {  # where one stands, after a comma
    "street": ("on a city street", "on a street of shops", "along a city street"),
    "hospital": ("inside a hospital ward", "on a ward of a hospital", "in a hospital ward"),
    "zoo": ("at a zoo", "inside a zoo", "on the paths of a zoo"),
    "museum": ("inside a museum", "in the galleries of a museum", "in a museum gallery"),
    "amusement_park": (
        "at an amusement park",
        "inside an amusement park",
        "on the midway of an amusement park",
    ),
}


def write_prose(scene: Scene, atlas: Atlas) -> str:
    """The scene in 100 to 140 words.

    Args:
        scene: A scene of one of the castable institutions.
        atlas: For the names of city, country and sign words.

    Returns:
        One paragraph; the same scene gives the same words.
    """
    writer = _Writer(scene, atlas)
    middle = [writer.people(), writer.shown(), writer.setting(), writer.signs(), writer.light()]
    order = stream(scene.seed, "prose", scene.place, "order").permutation(len(middle))
    sentences = [writer.opening(), *(middle[int(index)] for index in order)]
    extras = [writer.motion(), writer.crowd(), writer.texture(), writer.view(), writer.detail()]
    order = stream(scene.seed, "prose", scene.place, "extras").permutation(len(extras))
    for extra in (*(extras[int(index)] for index in order), *FILLERS):
        if num_words(" ".join(sentences)) >= MIN_WORDS + 8:
            break
        if num_words(" ".join([*sentences, extra])) <= MAX_WORDS:
            sentences.append(extra)
    return " ".join(filter(None, sentences))


class _Writer:
    """Sentences about one scene."""

    def __init__(self, scene: Scene, atlas: Atlas) -> None:
        self.scene, self.atlas = scene, atlas
        self.city = atlas.city(scene.city)
        self.indoors = atlas.institution(scene.institution).setting == "indoor"

    def say(self, clause: str, phrasings: Sequence[str]) -> str:
        """One of the phrasings, by the scene's seed."""
        index = int(
            stream(self.scene.seed, "prose", self.scene.place, clause).integers(len(phrasings))
        )
        return phrasings[index]

    def opening(self) -> str:
        """Place, time and weather."""
        scene = self.scene
        at = self.say("place", PLACES[scene.institution])
        part = daypart(scene)
        where = f"{self.city.name}, {self.city.country_name}"
        if self.city.name == self.city.country_name:
            where = self.city.name
        if self.indoors:
            outside = self.say("outside", OUTSIDE[scene.weather])
            forms = (
                f"{capital(at)} in {where}, it is {clock(scene)} {self._season_of_year()}; {outside}.",
                f"It is {clock(scene)} {at} in {where}, {self._season_of_year()}; {outside}.",
                f"{capital(at)} in {where}, {self._part_phrase()} passes quietly; {outside}.",
            )
        else:
            forms = (
                f"It is {an(weather_word(scene))} {_short(part)} {at} in {where}, {self._season_of_year()}.",
                f"{capital(at)} in {where}, {an(weather_word(scene))} {_short(part)} {self._season_of_year()}, at {clock(scene)}.",
                f"{capital(an(weather_word(scene)))} {_short(part)} in {where}, {at}, about {clock(scene)} {self._season_of_year()}.",
            )
        return self.say("opening", forms)

    def _season_of_year(self) -> str:
        """`in spring`, `in the wet season`."""
        season = self.scene.season
        return f"in the {season}" if " " in season else f"in {season}"

    def _part_phrase(self) -> str:
        """`a winter afternoon`, `a wet-season morning`."""
        season = self.scene.season.replace(" ", "-")
        return an(f"{season} {_short(daypart(self.scene))}")

    def people(self) -> str:
        """Who is there, in what, doing what."""
        scene = self.scene
        if not scene.roles:
            return self.say("nobody", NOBODY)
        told = joined([f"{person(role)} {self._doing(role, finite=True)}" for role in scene.roles])
        listed = "; ".join(f"{person(role)} {self._doing(role)}" for role in scene.roles)
        are = "are" if scene.roles[0].count > 1 else "is"
        forms = (f"{capital(told)}.", f"{capital(told)}.", f"There {are} {listed}.")
        return self.say("people", forms)

    def _doing(self, role: Role, *, finite: bool = False) -> str:
        """What people of a role do: `standing watch`, or finite `stands watch`."""
        forms = DOINGS.get((role.name, role.action)) or DOINGS["", role.action]
        verb, _, rest = self.say(f"doing {role.name}", forms).partition(" ")
        word = present(verb, role.count) if finite else participle(verb)
        return f"{word} {rest}".strip()

    def shown(self) -> str:
        """Animals, rides, exhibits, beds or traffic."""
        forms = SHOWN[self.scene.institution]
        return self.say("shown", forms(self.scene))

    def setting(self) -> str:
        """Walls, floors, facades: what the style says, else what such a place always has."""
        return self.say("setting", SETTINGS[self.scene.institution](self.scene))

    def signs(self) -> str:
        """Some of the signs, letter for letter, with what they mean where it is not English."""
        signs = [sign for sign in self.scene.signs if sign.text][:SIGNS_QUOTED]
        if not signs:
            return ""
        quoted = joined([self._quote(sign) for sign in signs])
        names = {self.atlas.languages[sign.language].name for sign in signs}
        in_language = f" in {names.pop()}" if len(names) == 1 else ""
        one = len(signs) == 1
        forms = (
            f"{'A sign reads' if one else 'Signs read'} {quoted}.",
            f"Lettering{in_language} says {quoted}.",
            f"The {'board says' if one else 'boards say'} {quoted}{in_language and ','}{in_language}.",
            f"One can read {quoted} on the {'sign' if one else 'signs'}.",
            f"Painted letters spell {quoted}.",
            f"Local lettering{in_language} marks {quoted}.",
        )
        return self.say("signs", forms)

    def _quote(self, sign: Sign) -> str:
        """A text in quotation marks, with its meaning after a foreign one."""
        english = self.atlas.words.get(sign.word, sign.word)
        english = NAMES.get(english, english)
        foreign = sign.language != "en" and sign.text.lower() != english.lower()
        return f"\u201c{sign.text}\u201d ({english})" if foreign else f"\u201c{sign.text}\u201d"

    def light(self) -> str:
        """What the light is like, from sun, weather and lamps."""
        if self.indoors:
            return self.say("light", _light_indoors(self.scene))
        return self.say("light", _light_outdoors(self.scene))

    def motion(self) -> str:
        """How things move."""
        return self.say("motion", MOTIONS["indoor" if self.indoors else "outdoor"])

    def crowd(self) -> str:
        """How full it is."""
        place = {"amusement_park": "park", "hospital": "ward"}.get(
            self.scene.institution, self.scene.institution
        )
        word = CROWDS[self.scene.crowd]
        return self.say(
            "crowd",
            (
                f"The {place} feels {word} {when(self.scene)}.",
                f"It is {an(word)} {place} at this hour.",
                f"For this time of day the {place} is {word}.",
            ),
        )

    def texture(self) -> str:
        """Surfaces under the weather, or indoors."""
        key = "indoor" if self.indoors else self.scene.weather
        return self.say("texture", TEXTURES[key])

    def view(self) -> str:
        """A little about the camera, which models follow badly."""
        return self.say("view", VIEWS[self.scene.camera])

    def detail(self) -> str:
        """Something small that such a place always has."""
        return self.say("detail", DETAILS[self.scene.institution])


FILLERS = (  # true of every scene, for the few that are short
    "The whole scene is one continuous moment with natural colors and realistic materials.",
    "Near things are crisp, and details stay steady from the first frame to the last.",
)
DETAILS: dict[str, tuple[str, ...]] = {
    "street": (
        "Shop windows face the sidewalk, door beside door.",
        "Painted lines divide the asphalt, and a curb sets the sidewalk off.",
        "Lamp posts follow the road at even distances.",
        "Floor upon floor of windows looks down on the road.",
        "The road runs straight, and its far end narrows between the houses.",
    ),
    "hospital": (
        "The beds stand in two rows with an aisle between them.",
        "White sheets are pulled straight, and the aisle is kept free.",
        "At the end of the aisle one sees a pair of doors.",
        "Clear bags hang from the stands beside the beds.",
    ),
    "zoo": (
        "Each enclosure is fenced on its own, and the path stays clear.",
        "The animals keep to the ground of their enclosures.",
        "From the path one looks into one enclosure after another.",
        "An arch marks the way in, and the path runs straight on from there.",
    ),
    "museum": (
        "Frames hang in even rows at the height of the eyes.",
        "Each picture keeps its distance from the next.",
        "Through the doorways one sees on into further rooms.",
        "Benches wait in the middle of the floor.",
    ),
    "amusement_park": (
        "Cabins and cars follow their tracks again and again.",
        "The tallest ride rises over the end of the avenue.",
        "Colored bulbs are strung from post to post.",
        "Counters of the stalls are open toward the avenue.",
    ),
}


def _short(part: str) -> str:
    """A part of the day that fits before `in Tokyo`."""
    return {
        "early morning before sunrise": "early morning",
        "evening after dark": "evening",
    }.get(part, part)


OUTSIDE: dict[str, tuple[str, ...]] = {
    "clear": ("outside the sky is clear", "outside it is clear and dry"),
    "cloudy": ("outside it is overcast", "outside, gray clouds cover the sky"),
    "rain": ("outside, rain is falling", "outside it rains"),
    "fog": ("outside, fog hangs in the air", "outside it is foggy"),
    "snow": ("outside, snow is falling", "outside it snows"),
}

NOBODY = (
    "Nobody is out at this hour, and the sidewalks are bare.",
    "The sidewalks are empty; not a single pedestrian is about.",
    "There is no one on foot anywhere along the street.",
)
DOINGS: dict[tuple[str, str], tuple[str, ...]] = {  # by role and action; the verb stands first
    ("", "walking"): ("walk by", "walk at an easy pace", "stroll past"),
    ("", "standing"): ("stand nearby", "stand still and watch the scene"),
    ("", "sitting"): ("sit down", "rest on a seat"),
    ("", "lying"): ("lie down", "rest in silence"),
    ("", "queueing"): ("wait in line", "stand in a queue"),
    ("pedestrian", "walking"): (
        "walk along the sidewalks",
        "pass the shop fronts",
        "head both ways along the sidewalks",
        "walk past the shops",
    ),
    ("police officer", "standing"): ("stand at the curb", "keep an eye on the street"),
    ("nurse", "walking"): ("move between the beds", "make the round of the ward"),
    ("doctor", "standing"): ("stand by the beds", "stop by one of the beds"),
    ("patient", "lying"): ("lie in bed", "rest in bed", "lie still under light covers"),
    ("visitor", "walking"): ("stroll about", "wander from one thing to the next", "look around"),
    ("child", "walking"): ("walk beside the adults", "look at everything", "walk a little ahead"),
    ("commuter", "walking"): ("walk briskly", "walk straight ahead"),
    ("keeper", "walking"): ("walk the paths", "move from enclosure to enclosure"),
    ("guard", "standing"): ("stand watch", "stand quietly by a doorway"),
    ("ride attendant", "standing"): ("stand by the rides", "wait near the rides"),
}


def _verb(subjects: Sequence[Subject], one: str, many: str) -> str:
    """The form of a verb that agrees with all subjects together."""
    return one if sum(subject.count for subject in subjects) == 1 else many


def _street_shown(scene: Scene) -> tuple[str, ...]:
    """Traffic on its side of the road, and trees."""
    side = scene.driving_side
    beside = ("tree", "bench", "lamp")
    vehicles = things([subject for subject in scene.subjects if subject.kind not in beside])
    trees = things([subject for subject in scene.subjects if subject.kind in beside])
    return (
        f"Traffic keeps to the {side}: {vehicles}. The sidewalk has {trees}.",
        f"Vehicles drive on the {side}: {vehicles}, with {trees} along the curb.",
        f"On the road, where traffic drives on the {side}, one sees {vehicles}, and {trees} beside it.",
        f"With {vehicles} on the road, all traffic stays on the {side}, past {trees}.",
    )


def _zoo_shown(scene: Scene) -> tuple[str, ...]:
    """The animals."""
    animals = things(scene.subjects)
    return (
        f"Behind railings {_verb(scene.subjects, 'lives', 'live')} {animals}.",
        f"The enclosures hold {animals}.",
        f"Visitors can see {animals}, each kind in an enclosure of its own.",
        f"On show {_verb(scene.subjects, 'is', 'are')} {animals}, unhurried and at ease.",
    )


def _museum_shown(scene: Scene) -> tuple[str, ...]:
    """Paintings, and what stands between them."""
    paintings = [subject for subject in scene.subjects if subject.kind == "painting"]
    others = [subject for subject in scene.subjects if subject.kind != "painting"]
    hung, hang = things(paintings), _verb(paintings, "hangs", "hang")
    if not others:
        return (f"On the walls {hang} {hung}.", f"The collection on view is {hung}.")
    return (
        f"On the walls {hang} {hung}; between them {_verb(others, 'stands', 'stand')} {things(others)}.",
        f"The rooms show {hung}, along with {things(others)}.",
        f"Framed on the walls, {hung} {hang} in rows, with {things(others)} in the middle of the rooms.",
    )


def _hospital_shown(scene: Scene) -> tuple[str, ...]:
    """Beds and what stands by them."""
    equipment = things(scene.subjects)
    return (
        f"The ward has {equipment}.",
        f"Along the aisle {_verb(scene.subjects, 'is', 'are')} {equipment}.",
        f"It is furnished with {equipment}, set out in two tidy rows.",
    )


def _park_shown(scene: Scene) -> tuple[str, ...]:
    """Rides and stalls."""
    rides = [subject for subject in scene.subjects if subject.kind in RIDES]
    others = [subject for subject in scene.subjects if subject.kind not in RIDES]
    beside = (
        f"; beside {'it' if len(rides) == 1 else 'them'} one sees {things(others)}"
        if others
        else ""
    )
    return (
        f"{capital(things(rides))} {_verb(rides, 'is', 'are')} in motion{beside}.",
        f"There {_verb(rides[:1], 'is', 'are')} {things(rides)}{beside}.",
        f"The rides on view are {things(rides)}{beside}."
        if len(rides) > 1
        else f"The ride on view is {things(rides)}{beside}.",
    )


SHOWN: dict[str, Callable[[Scene], tuple[str, ...]]] = {
    "street": _street_shown,
    "hospital": _hospital_shown,
    "zoo": _zoo_shown,
    "museum": _museum_shown,
    "amusement_park": _park_shown,
}


def _street_setting(scene: Scene) -> tuple[str, ...]:
    """Houses and shops."""
    facade = scene.style.get("facade", "")
    era = {"old": "old", "modern": "modern", "highrise": "high-rise"}.get(
        scene.style.get("era", ""), ""
    )
    houses = f"{era} {facade} buildings".strip().replace("  ", " ")
    return (
        f"{capital(houses)} with shops on the ground floor line both sides.",
        f"The shops stand in a row beneath {houses}.",
        f"Both sides are lined by {houses}, their ground floors given to shops.",
    )


def _hospital_setting(scene: Scene) -> tuple[str, ...]:
    """Curtains and floor."""
    accent = scene.style.get("accent", "")
    if not accent:
        return (
            "Curtains hang between the beds, and the floor is clean and bare.",
            "Everything is clean and in order, with curtains between the beds.",
        )
    return (
        f"The curtains and doors are {accent}, and the floor is clean and bare.",
        f"{capital(accent)} curtains and {accent} doors give the clean room its color.",
        f"Everything is clean and in order; the curtains are {accent}.",
    )


def _zoo_setting(scene: Scene) -> tuple[str, ...]:
    """Paths and what borders them."""
    border = {
        "savanna": "dry grass, timber and thatch",
        "forest": "lawns, hedges and timber fences",
        "stone": "lawns and low walls of stone",
    }.get(scene.style.get("theme", ""), "railings and shade trees")
    return (
        f"The path between the enclosures is bordered by {border}.",
        f"A path leads from one enclosure to the next, past {border}.",
        f"Between the path and the animals there are {border}.",
    )


def _museum_setting(scene: Scene) -> tuple[str, ...]:
    """Walls and floors."""
    wall, floor = scene.style.get("wall", ""), scene.style.get("floor", "")
    floors = {"parquet": "wooden parquet", "stone": "polished stone"}.get(floor, "smooth stone")
    walls = f"{wall.replace('grey', 'gray')} walls".strip() if wall else "high walls"
    return (
        f"The galleries have {walls} and a floor of {floors}.",
        f"Doorways open from room to room, between {walls} and over {floors}.",
        f"{capital(walls)} rise from a floor of {floors}, one gallery behind another.",
    )


def _park_setting(scene: Scene) -> tuple[str, ...]:
    """The avenue and its stalls."""
    kind = {"striped": "striped awnings", "plain": "awnings of one color"}.get(
        scene.style.get("stalls", ""), "bright awnings"
    )
    return (
        f"A wide avenue leads to the rides, past stalls with {kind}.",
        f"Stalls with {kind} stand along the avenue under strings of bulbs.",
        f"Bunting and strings of bulbs hang over an avenue of stalls with {kind}.",
    )


SETTINGS: dict[str, Callable[[Scene], tuple[str, ...]]] = {
    "street": _street_setting,
    "hospital": _hospital_setting,
    "zoo": _zoo_setting,
    "museum": _museum_setting,
    "amusement_park": _park_setting,
}


def _light_indoors(scene: Scene) -> tuple[str, ...]:
    """Lamps, or a skylight by day."""
    if scene.institution == "hospital":
        return (
            "Ceiling panels give an even, neutral light.",
            "The light from the ceiling is bright and even, with hardly any shadow.",
        )
    if scene.style.get("ceiling") == "skylight" and not scene.is_night:
        return (
            "Soft daylight falls through a skylight onto the frames.",
            "A skylight in the ceiling fills the rooms with gentle daylight.",
        )
    return (
        "Lamps in the ceiling give the rooms a warm, calm light.",
        "Warm light from above rests on the frames and fades toward the floor.",
    )


def _light_outdoors(scene: Scene) -> tuple[str, ...]:
    """Lamps at night, else the sky: covered, or with the sun at its height."""
    if scene.is_night:
        return (
            "The sky is dark; street lamps and lit windows give pools of warm light."
            if scene.institution == "street"
            else "The sky is dark, and lamps along the paths give pools of warm light.",
            "It is dark, and what one sees is lit by lamps, warm near them and dim between them.",
            "Lamps are on against the dark sky, and their light lies in patches on the ground.",
            "Out of the dark, lamps pick out faces, walls and stretches of the ground.",
            "Only lamps give light now; between them it is dark.",
        )
    if scene.weather in ("cloudy", "rain", "fog", "snow"):
        return (
            "The light is soft and gray, without hard shadows.",
            "Daylight comes evenly from a covered sky, so shadows are faint.",
            "Under the covered sky colors look muted, and nothing throws a sharp shadow.",
            "The sky spreads a flat, pale light in which shadows all but vanish.",
            "An even, cool light falls from all sides.",
        )
    where = compass(scene.sun_azimuth_deg)
    if scene.sun_elevation_deg < 0.5:
        return (
            f"The sun is at the horizon in the {where}; the sky still glows and shadows are faint.",
            f"A last glow in the {where} lights the sky, and the shadows have dissolved."
            if scene.hour > 12
            else f"A first glow in the {where} lights the sky, and there are no shadows yet.",
        )
    if scene.sun_elevation_deg < 12:
        return (
            f"The sun is low in the {where}, its light golden and the shadows long.",
            f"Golden light comes almost level from the {where} and draws out long shadows.",
            f"From low in the {where} the sun gilds every edge, and shadows reach far.",
        )
    if scene.sun_elevation_deg < 50:
        return (
            f"Sunlight from the {where} throws clear shadows across the ground.",
            f"The sun stands in the {where}; surfaces facing it are bright, the others in shade.",
            f"With the sun in the {where}, one side of everything is lit and the other in shadow.",
            f"Bright sun from the {where} models every surface with light and shade.",
        )
    return (
        "The sun is high, the light hard and white, and shadows are short.",
        "Strong sunlight from high above leaves only short, dark shadows.",
        "From high up the sun shines down, and shadows shrink to the feet of things.",
        "Glaring light falls from a high sun; what shade there is lies close.",
    )


MOTIONS: dict[str, tuple[str, ...]] = {
    "outdoor": (
        "People walk at a natural pace, each step firm on the ground.",
        "Everything moves steadily and without haste.",
        "Each walker keeps an even stride and a little distance from the next.",
        "Feet meet the ground with every step, and nobody slides.",
        "Nothing jumps or stutters; motion is as even as in life.",
        "All movement is smooth and natural, with nothing sudden.",
        "Whatever moves does so at an everyday speed, evenly and without jumps.",
    ),
    "indoor": (
        "Those who move do so slowly and quietly.",
        "Movements are calm and unhurried, and footsteps stay firmly on the floor.",
        "All motion is gentle; nothing changes abruptly.",
        "Hardly anything stirs, and what stirs does so softly.",
        "Steps are short and quiet, with pauses in between.",
        "People take their time, and their movements look natural.",
    ),
}
TEXTURES: dict[str, tuple[str, ...]] = {
    "indoor": (
        "Surfaces are clean, with faint reflections on the floor.",
        "The air is still, and every material looks solid and real.",
        "Edges are sharp, and smooth surfaces catch a little of the light.",
        "Walls, floor and furniture look solid, with fine natural detail.",
    ),
    "clear": (
        "The air is clear and far things stay sharp.",
        "Everything is dry, and even distant outlines are distinct.",
        "There is no haze; one sees far.",
        "The ground is dry and the distance is sharp in the clean air.",
    ),
    "cloudy": (
        "The ground is dry and clouds cover the sky from edge to edge.",
        "Low cloud fills the sky, and the ground is dry.",
        "A closed layer of cloud hangs over the whole scene.",
        "No blue shows between the clouds, but it stays dry.",
    ),
    "rain": (
        "Rain falls steadily, and the wet ground mirrors what stands on it.",
        "Raindrops streak the air, and puddles shine on the ground.",
        "Thin streaks of rain cross the view, and wet surfaces glisten.",
        "It rains without a break, and the ground shines.",
    ),
    "fog": (
        "Fog swallows the distance, and far shapes are only pale outlines.",
        "Beyond a few dozen steps everything fades into fog.",
        "Thick fog lies over the place and takes the color out of far things.",
    ),
    "snow": (
        "Snowflakes drift down, and snow covers roofs and ground.",
        "Fresh snow lies on everything, and flakes keep falling.",
        "Snow has whitened the ground, and more is coming down.",
    ),
}
VIEWS: dict[str, tuple[str, ...]] = {
    "stroll": (
        "The view moves slowly ahead at eye level.",
        "We see it from eye level, walking slowly forward.",
    ),
    "tour": (
        "The view moves slowly ahead at eye level and looks to both sides.",
        "We see it from eye level, walking slowly and looking around.",
    ),
    "wander": (
        "The view wanders freely at eye level, as a player would.",
        "We see it from eye level, wandering about as in a game.",
    ),
}
