"""A scene in about 120 words: one grounded moment, stated plainly, with little talk of the camera.

Every fact of the scene becomes a clause or an adverbial; the clauses are put in order, fused and
begun in many ways, so that scenes differ in wording as well as in facts. No clause says what the
scene does not hold, and none that `facts.py` asks for is left out.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import Activity
from worldloop.prompts.boards import quoted_signs, sign_clause
from worldloop.prompts.cameras import camera_clause, camera_phrase
from worldloop.prompts.cinematic import cinematic_opening
from worldloop.prompts.crowds import (
    acted,
    crowd_clause,
    people_clause,
    place_adjective,
    roadside_clause,
)
from worldloop.prompts.dice import dice_of
from worldloop.prompts.furnishings import (
    CLAUSE_SLOTS,
    STILL_ON_STREETS,
    detail_clause,
    pair_clause,
    starts_with_place,
    style_phrases,
    subject_clause,
)
from worldloop.prompts.places import OPEN_ROAD, PlaceWords, where, words_of
from worldloop.prompts.roads import drive_clauses, open_road, traffic_clause
from worldloop.prompts.skies import light_clause, sky_clause, under_weather, weather_outside
from worldloop.prompts.times import holiday_clause, time_phrase
from worldloop.prompts.words import an, capital, joined, thing
from worldloop.scenes.scene import Detail, Role, Scene, Subject

MIN_WORDS, MAX_WORDS = 100, 140
ROLES_TOLD, SUBJECTS_TOLD, DETAILS_TOLD = 3, 4, 3
DRIVE_TOLD = 2  # roles and subjects of a scene from a car, which has the road to tell
ProseStyle = Literal["plain", "cinematic"]
_AIM = (94, 112)  # words after which nothing optional is added
_SHORT = 13  # words of a clause that may be fused with another
_MOST_TRIES = 24  # each with other dice; from the fourth on as lean as can be
_LINKS = (", and ", ", and ", "; ", "; ", ", while ")
_SEQUENCES = (  # three steps of the script
    ("{0}", "{1}", "{2}"),
    ("{0}, {1}, and {2}",),
    ("{0}; {1}", "{2}"),
    ("{0}", "then {1}, and {2}"),
    ("first {0}", "{1}, and then {2}"),
    ("{0}, and {1}", "at last {2}"),
    ("{0}; then {1}; finally {2}",),
    ("{0}; soon {1}", "after that, {2}"),
    ("{0} before {1}", "in the end {2}"),
    ("at first {0}", "next, {1}, until {2}"),
    ("{0}", "a moment later {1}; {2}"),
)
_PAIRS = (
    ("{0}, and {1}",),
    ("{0}", "then {1}"),
    ("{0}; {1}",),
    ("{0} before {1}",),
    ("first {0}, then {1}",),
    ("{0}", "soon {1}"),
)
_WHOEVER = ("every movement", "all motion", "each gesture", "whatever stirs here", "every step")
_MOVES = (
    *(
        "looks natural and unhurried",
        "keeps an even pace",
        "is calm and steady",
    ),
    *("goes on without a jerk", "takes its natural time"),
)
_ENTRANCES = (  # the place as the subject of a sentence, {p} where, {t} when
    "the scene is set {p}, {t}",
    "this is a moment {p}, {t}",
    "{t}, the day takes its course {p}",
    "it all takes place {p}, {t}",
    "{t}, a moment passes {p}",
    "we are {p}, {t}",
    "everything happens {p}, {t}",
)


def write_prose(
    scene: Scene, atlas: Atlas, *, style: ProseStyle = "plain", seen: bool = False
) -> str:
    """The scene in 100 to 140 words.

    Args:
        scene: A scene of any institution.
        atlas: For names of city, country, roads and sign words.
        style: `cinematic` opens as an aerial panorama, with skyline, roads and sky; for scenes
            outdoors that are seen from the air.
        seen: Whether to say only what the procedural renderer shows: no details, script or drive.

    Returns:
        One paragraph; the same scene gives the same words.

    Raises:
        MalformedRecordError: If a cinematic text of a scene that is not seen from the air is asked for.
    """
    for leanness in range(_MOST_TRIES):
        text = _Writer(scene, atlas, style, leanness, seen=seen).text()
        if text.count(" ") < MAX_WORDS:
            break
    return text


def activity_of(scene: Scene, atlas: Atlas) -> Activity | None:
    """What mainly goes on, or None."""
    if not scene.activity:
        return None
    for activity in atlas.activities(scene.institution):
        if activity.key == scene.activity:
            return activity
    return None


def told_roles(scene: Scene) -> tuple[Role, ...]:
    """Roles that prose counts."""
    return scene.roles[: DRIVE_TOLD if scene.drive else ROLES_TOLD]


def told_subjects(scene: Scene) -> tuple[Subject, ...]:
    """Subjects that prose counts."""
    return scene.subjects[: DRIVE_TOLD if scene.drive else SUBJECTS_TOLD]


def told_details(scene: Scene) -> list[Detail]:
    """Details that prose may state: nobody queues in an empty place, and no thing is said twice."""
    kinds = tuple([subject.kind for subject in scene.subjects])
    is_empty = scene.crowd == "empty" or not scene.roles
    return [
        detail
        for detail in scene.details
        if not detail.says.startswith(kinds) and not (is_empty and detail.slot in CLAUSE_SLOTS)
    ]


class _Unit:
    """A finite clause without capital and full stop, and sentences that must follow it."""

    __slots__ = ("after", "num_words", "shown", "text")

    def __init__(self, text: str, *, shown: bool = False, after: Sequence[str] = ()) -> None:
        """Keep the clause; `shown` says that it speaks of somebody or something in view."""
        self.text, self.shown = text, shown
        self.num_words = text.count(" ") + 1
        self.after: list[str] = []
        for line in after:
            self.follow(line)

    def follow(self, line: str) -> None:
        """Let a sentence follow."""
        self.after.append(line)
        self.num_words += line.count(" ") + 1


class _Writer:
    """One text about one scene."""

    def __init__(
        self, scene: Scene, atlas: Atlas, style: ProseStyle, leanness: int, *, seen: bool
    ) -> None:
        self.scene, self.atlas, self.style, self.leanness, self.seen = (
            scene,
            atlas,
            style,
            leanness,
            seen,
        )
        kind = atlas.institution(scene.institution)
        self.open_road = open_road(scene, atlas) is not None
        self.words: PlaceWords = OPEN_ROAD if self.open_road else words_of(kind)
        self.indoors = kind.setting == "indoor"
        self.dice = dice_of(scene, "prose", leanness)
        self.activity = None if seen else activity_of(scene, atlas)
        self.drive = None if seen else scene.drive
        self.subjects = [thing(subject) for subject in told_subjects(scene)]
        self.spare: list[Callable[[], str]] = []  # clauses that are made when there is room

    def text(self) -> str:
        """The whole text."""
        script = self._script()
        units = [*self._people(), *self._things(), *self._signs(), *self._road(), *self._details()]
        if self.scene.holiday and not self.seen:
            units.append(_Unit(holiday_clause(self.scene, self.dice)))
        if self.style == "cinematic":
            place, view, time = "", "", time_phrase(self.scene, self.dice)
            opening = self._panorama(time)
        else:
            place, time = self._setting(units)
            view, opening = self._view(units), []
        known = sum([unit.num_words for unit in units]) + sum(
            map(_count, (place, time, view, *opening))
        )
        self._fill(units, script, known)
        if script:
            units.append(script)
        units = self.dice.shuffled(units)
        if not opening:
            first = next((unit for unit in units if unit.shown), units[0])
            units = [unit for unit in units if unit is not first]
            opening = self._opening(first, place, time)
        sentences = [*opening, *self._body(units, view)]
        return " ".join([f"{capital(sentence)}." for sentence in sentences])

    def _setting(self, units: list[_Unit]) -> tuple[str, str]:
        """Where and when it is, two adverbials; crowd, weather and light become clauses or part of them."""
        scene, dice = self.scene, self.dice
        crowd_told = self.drive is not None or (self.leanness < 2 and dice.chance(30))
        if self.drive:
            if not self.open_road:  # else the traffic tells how full it is
                units.append(_Unit(roadside_clause(scene, dice)))
        elif crowd_told:
            units.append(_Unit(crowd_clause(scene, dice.pick(self.words.short), dice)))
        place, time = self._place(with_crowd=not crowd_told), time_phrase(scene, dice)
        weather = self._weather(units)
        if not weather:
            return place, time
        if dice.chance(50):
            return f"{place}, {weather}", time
        return place, (f"{time}, {weather}" if dice.chance(50) else f"{weather}, {time}")

    def _panorama(self, time: str) -> list[str]:
        """The opening of the cinematic style, which also tells crowd, camera, weather and light."""
        fullness = place_adjective(self.scene, self.dice)
        return cinematic_opening(self.scene, self.atlas, time, fullness, self.dice)

    # ------------------------------------------------------------------------- facts as clauses

    def _place(self, *, with_crowd: bool) -> str:
        """Where it is, an adverbial: `inside a quiet library in Lima, Peru`."""
        dice, city = self.dice, where(self.atlas, self.scene.city, self.dice)
        crowd = place_adjective(self.scene, dice)
        if self.drive:
            return f"in {city}"
        name = dice.pick(self.words.names)
        return (
            f"{dice.pick(self.words.at)} {an(f'{crowd} {name}' if with_crowd else name)} in {city}"
        )

    def _script(self) -> _Unit | None:
        """The main activity; its steps are added when it is known how many fit."""
        self.merged: Role | None = None
        if self.activity is None:
            return None
        dressed = self.leanness < 2
        says, self.merged = acted(
            self.activity.says, told_roles(self.scene), self.dice, dressed=dressed
        )
        return _Unit(says, shown=True)

    def _people(self) -> list[_Unit]:
        """A clause of each role that the main activity does not name."""
        units = []
        for role in told_roles(self.scene):
            if role is self.merged:
                continue
            near = self.subjects.pop() if len(self.subjects) > 1 and self.dice.chance(60) else ""
            text = people_clause(
                role, self.dice, near, dressed=self.leanness < 1 + (role.dress.color != "")
            )
            units.append(_Unit(text, shown=True))
        return units

    def _things(self) -> list[_Unit]:
        """Clauses of the subjects that nobody passes."""
        dice, left = self.dice, self.subjects
        units = []
        if self.scene.institution == "street":
            kinds = {thing(one): one for one in told_subjects(self.scene)}
            vehicles = [
                said for said in left if said in kinds and kinds[said].kind not in STILL_ON_STREETS
            ]
            left = [said for said in left if said not in vehicles]
            if vehicles and not self.drive:
                many = len(vehicles) > 1 or kinds[vehicles[0]].count > 1
                units.append(
                    _Unit(traffic_clause(joined(vehicles), self.scene, dice, many=many), shown=True)
                )
            elif vehicles:
                left = [*vehicles, *left]
            else:
                self.spare_side = True
        if len(left) > 2 and self.leanness < 2 and dice.chance(50):
            units.append(self._subjects(left[:2]))
            left = left[2:]
        if left:
            units.append(self._subjects(left))
        return units

    def _subjects(self, parts: list[str]) -> _Unit:
        text = subject_clause(parts, self.words, self.dice)
        named = any(f"the {short}" in text for short in self.words.short)
        return _Unit(text, shown=not named and not starts_with_place(text))

    def _weather(self, units: list[_Unit]) -> str:
        """Add clauses of weather and light; the weather as an adverbial if no clause says it."""
        scene, dice, words = self.scene, self.dice, self.words

        def light() -> str:
            return light_clause(scene, words, dice, indoors=self.indoors)

        if self.indoors:
            units.append(_Unit(weather_outside(scene, dice)))
            if self.leanness:
                self.spare.append(light)
            else:
                units.append(_Unit(light()))
            return ""
        if self.leanness > 2:
            return under_weather(scene, dice)
        if scene.weather != "clear" and dice.chance(55):
            units.append(_Unit(sky_clause(scene, words, dice)))
            self.spare.append(light)
            return ""
        units.append(_Unit(light()))
        return under_weather(scene, dice)

    def _signs(self) -> list[_Unit]:
        signs = quoted_signs(self.scene)
        if not signs:
            return []
        return [
            _Unit(
                sign_clause(
                    signs, self.atlas, self.dice, glossed=self.leanness < 2, by_road=self.open_road
                )
            )
        ]

    def _road(self) -> list[_Unit]:
        if self.drive is None:
            return []
        first, second = drive_clauses(self.scene, self.drive, self.atlas, self.dice)
        return [_Unit(first, shown=True, after=[second])]

    def _details(self) -> list[_Unit]:
        """Three details; the others are spare, and so is what the grammars' style says."""
        dice, units = self.dice, []
        if self.seen:
            told: list[Detail] = []
        else:
            told = dice.shuffled(told_details(self.scene))
            if self.leanness > 2:
                told.sort(key=lambda detail: detail.says.count(" "))
            elif self.scene.crowd == "sparse":
                told.sort(key=lambda detail: detail.slot in CLAUSE_SLOTS)
        chosen, others = told[:DETAILS_TOLD], told[DETAILS_TOLD:]
        nouns = [
            detail
            for detail in chosen
            if detail.slot not in CLAUSE_SLOTS and "," not in detail.says
        ]
        if len(nouns) > 1 and (self.leanness > 2 or dice.chance(40)):
            units.append(_Unit(pair_clause(nouns[:2], self.words, dice)))
            chosen = [detail for detail in chosen if detail not in nouns[:2]]
        units += [_Unit(detail_clause(detail, self.words, dice)) for detail in chosen]
        style = [] if self.open_road else style_phrases(self.scene)
        if style and self.seen:
            units.append(_Unit(subject_clause(style, self.words, dice)))
        elif style:
            self.spare.append(lambda: subject_clause(style, self.words, dice))
        if not self.seen:
            self.spare += [
                lambda detail=detail: detail_clause(detail, self.words, dice)  # type: ignore[misc]
                for detail in others
            ]
        return units

    def _view(self, units: list[_Unit]) -> str:
        """The camera as an adverbial, or empty after it became a clause."""
        if self.leanness > 1 or self.dice.chance(70):
            return camera_phrase(self.scene, self.dice)
        units.append(_Unit(camera_clause(self.scene, self.dice)))
        return ""

    def _fill(self, units: list[_Unit], script: _Unit | None, known: int) -> None:
        """As many steps of the script as fit, then spare clauses up to about 120 words."""
        low, high = _AIM
        aim = low + self.dice.below(high - low) - 6 * min(self.leanness, 3)
        if script:
            steps = list(self.scene.script)
            most = max(aim + 10, MIN_WORDS + 16)
            while steps and known + sum(map(_count, steps)) > most:
                steps.pop()
            known -= script.num_words
            for line in self._steps(steps):
                script.follow(line)
            known += script.num_words
        for clause in self.spare:
            if known >= aim - 4:
                break
            unit = _Unit(clause())
            if known + unit.num_words < MAX_WORDS - 6:
                units.append(unit)
                known += unit.num_words
        while known < MIN_WORDS + 4:
            text = f"{self.dice.fresh(_WHOEVER)} {self.dice.fresh(_MOVES)}"
            units.append(_Unit(text))
            known += _count(text)

    def _steps(self, steps: list[str]) -> list[str]:
        """Steps of the script as sentences."""
        if len(steps) == 3:
            return [form.format(*steps) for form in self.dice.pick(_SEQUENCES)]
        if len(steps) == 2:
            return [form.format(*steps) for form in self.dice.pick(_PAIRS)]
        return steps

    # ------------------------------------------------------------------------- sentences

    def _opening(self, first: _Unit, place: str, time: str) -> list[str]:
        """Sentences that say where and when it is, and something in view."""
        dice, clause = self.dice, first.text
        match dice.below(8):
            case 0 | 1:
                lines = [f"{place}, {time}, {clause}"]
            case 2 | 3:
                lines = [f"{time}, {place}, {clause}"]
            case 4:
                lines = [f"{time}, {clause} {place}"]
            case 5 | 6:
                lines = [f"{clause} {place}, {time}"]
            case _:
                entrance = dice.pick(_ENTRANCES).replace("{p}", place).replace("{t}", time)
                lines = [entrance, clause]
        return [*lines, *first.after]

    def _body(self, units: list[_Unit], view: str) -> list[str]:
        """The other sentences, some of them fused; the camera is said with something in view."""
        dice, sentences = self.dice, []
        waiting = view
        index = 0
        while index < len(units):
            unit = units[index]
            text, index = unit.text, index + 1
            if waiting and unit.shown:
                text = f"{waiting}, {text}" if dice.chance(60) else f"{text}, {waiting}"
                waiting = ""
            elif not unit.after and index < len(units):
                following = units[index]
                if (
                    _fits(unit)
                    and _fits(following)
                    and not (waiting and following.shown)
                    and dice.chance(50)
                ):
                    text = f"{text}{dice.pick(_LINKS)}{following.text}"
                    index += 1
                    unit = following
            sentences += [text, *unit.after]
        if waiting:
            sentences.append(f"it is all {waiting}")
        return sentences


def _count(text: str) -> int:
    return text.count(" ") + 1 if text else 0


def _fits(unit: _Unit) -> bool:
    """Whether a clause may be joined to another."""
    return (
        not unit.after
        and unit.num_words <= _SHORT
        and ";" not in unit.text
        and ":" not in unit.text
    )
