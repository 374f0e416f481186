"""A small invented data set for the paper's three tasks, for a first run, a test or a tutorial without a network.

This is a demo made up by the project, no benchmark: its sentences are filled-in templates, no text was copied from
SST, STS or Quora, and a score on it says nothing about a score on those.

The dev split measures generalisation: its templates and the words that fill them occur nowhere in train.  The test
split is drawn from dev's words and templates and carries no labels.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from qabert.errors import unknown

DEMO_TASKS = ("sst", "sts", "quora")
DEMO_NOTE = "Demo rows invented by the qabert project; no benchmark, so its scores compare with no published ones."
DEMO_SIZES = {"train": 800, "dev": 240, "test": 100}
#: Shares of the labels 0, 1, …: those of the paper's SST and Quora (its table 3); one sixth for each grade of STS.
_SHARES = {"sst": (0.127, 0.260, 0.190, 0.272, 0.151), "sts": (1 / 6,) * 6, "quora": (0.63, 0.37)}

_Row = tuple[str, str | None, int | float]
T = TypeVar("T")


def _read(text: str) -> list[dict[str, list[str]]]:
    """Read a bank: `key: a, b` lines (`|` parts frames), indented where they go on; a blank line starts a new topic."""
    topics: list[dict[str, list[str]]] = []
    for block in text.strip().split("\n\n"):
        pairs = (line.split(":", 1) for line in re.sub(r"\n\s+", " ", block).splitlines())
        topics.append({key: [x.strip() for x in value.split("|" if "{" in value else ",")] for key, value in pairs})
    return topics


# --- sst: {n} and {m} are nouns, {a} and {b} words of a grade (0 to 4), {v} a verb of one -----------------------------
_REVIEWS = {
    "train": _read("""
nouns: acting, plot, script, music, ending, humor, direction, lighting, pacing, opening
jobs: farmer, baker, detective, singer, taxi driver, librarian, fisherman, clerk
places: village, harbor, mountain town, hotel, desert, railway station
words 0: terrible, awful, dreadful, disastrous, atrocious, horrible, unbearable, abysmal
words 1: weak, dull, clumsy, flat, forgettable, bland, tired, predictable, slow, unconvincing
words 2: average, ordinary, passable, unremarkable, conventional
words 3: good, pleasant, enjoyable, charming, solid, engaging, amusing, likeable, decent, graceful
words 4: brilliant, superb, magnificent, outstanding, breathtaking, masterful, extraordinary, sensational
verbs 0: hate, detest
verbs 1: dislike, regret
verbs 3: enjoy, like
verbs 4: adore, worship
one: The {n} is {a} in every way that matters to me. | I find the {n} {a}, and I doubt that I am alone. |
    What a {a} movie this is, above all because of its {n}! | If one thing stays in my mind, it is the {a} {n}.
two: The {n} is {a} and the {m} is {b}. | This is a {a} picture in which even the {n} is {b}.
turn: The {n} is not {a} but {b}, whatever the poster says. | I expected the {n} to be {a}, yet it is {b}.
negation: The {n} is hardly {a}, even by the standards of its genre. |
    Nobody could call this a {a} movie, least of all for its {n}.
mixed: The {n} is {a}, but the {m} is {b}. | While one half of the movie is {a}, the other half is {b}. |
    Neither {a} nor {b}, the {n} simply does its job.
plain: The movie follows a {job} who comes back to a {place} after many years. |
    It begins in a {place}, where a {job} meets a {job2}. | Set in a {place}, the movie shows three days with a {job}.
verb: I think most people will {v} the {n} of this movie. | You may {v} the {n} as much as I do.
"""),
    "dev": _read("""
nouns: dialogue, story, soundtrack, finale, cinematography, cast, comedy, editing, choreography
jobs: surgeon, boxer, widow, gardener, journalist, piano tuner, carpenter, spy
places: hospital, lighthouse, castle, monastery, prison, coal mine
words 0: horrendous, appalling, insufferable, ghastly, hideous, catastrophic, dire, wretched
words 1: boring, mediocre, awkward, lifeless, tedious, shallow, disappointing, stale, lazy, dreary
words 2: middling, typical, routine, standard
words 3: nice, entertaining, appealing, fun, satisfying, fresh, clever, likable, agreeable, lively
words 4: wonderful, stunning, phenomenal, exceptional, perfect, amazing, spectacular, glorious
verbs 0: despise, loathe
verbs 1: criticize, fault
verbs 3: appreciate, welcome
verbs 4: love, treasure
one: Everyone in our row agreed that the {n} was {a}. | By the time the credits rolled, the {n} had proved {a}. |
    All in all, a {a} drama, mainly on account of the {n}. | My friends and I thought the {n} was {a}.
two: Both the {n} and the {m} struck me as {a}, even {b}. |
    It was a {a} evening at the theater, and the {n} was {b} too.
turn: Far from {a}, the {n} was {b} that night. | Critics had warned of something {a}, and yet the {n} was {b}.
negation: To be honest, the {n} was anything but {a}. | At no point did the {n} seem {a} to me.
mixed: Although the {n} was {a}, the {m} was {b}. |
    I would describe the {n} as {a} and the {m} as {b}, so it evens out. |
    Some found this drama {a}, others thought it was {b}.
plain: This drama is about a {job} with an old friend inside a {place}. |
    A {job} and a {job2} spend one long winter near a {place}. |
    In this two-hour film, a {job} looks for work at a {place}.
verb: Audiences everywhere are going to {v} this film for its {n}. | Go and see why our critics {v} the {n} here.
"""),
}
#: How a grade is worded: kind of frame and weight.  The extremes know no negation: "hardly superb" is no grade.
_EXTREME = {"one": 0.45, "two": 0.30, "turn": 0.13, "verb": 0.12}
_MILD = {"one": 0.37, "two": 0.25, "turn": 0.12, "verb": 0.10, "negation": 0.16}
_REVIEW_KINDS = [_EXTREME, _MILD, {"plain": 0.47, "mixed": 0.40, "one": 0.13}, _MILD, _EXTREME]


def _review(draw: _Draw, side: str, grade: int) -> _Row:
    (bank,) = _REVIEWS[side]
    kind = draw.weighted(_REVIEW_KINDS[grade])
    own, bad, good = (bank[f"words {number}"] for number in (grade, 1, 3))
    other = bad if grade > 2 else good  # the mild word of the other polarity: "not dull but superb", "hardly dull"
    first, second = own, own
    if kind in ("turn", "negation"):
        first = other
    elif kind == "mixed":
        first, second = draw.shuffled([bad, good])
    slots = {"a": draw.pick(first)}
    slots["b"] = draw.pick([word for word in second if word != slots["a"]])
    slots["n"], slots["m"] = draw.two(bank["nouns"])
    slots["job"], slots["job2"] = draw.two(bank["jobs"])
    slots |= {"place": draw.pick(bank["places"]), "v": draw.pick(bank.get(f"verbs {grade}", [""]))}
    return _sentence(draw.pick(bank[kind]), slots), None, grade


# --- sts: `=` parts a phrase from its synonym -------------------------------------------------------------------------
# An event is verb = synonym = object = its synonym = another object; train's verbs have two forms, "slicing/sliced".
_SCENES = {
    "train": _read("""
people: a man = a gentleman, a woman = a lady, a boy = a lad, a child = a kid, a cop = a police officer,
    a tourist = a traveler, a cook = a chef, a dad = a father
frames: {s} is {v} {o} {p}. | There is {s} who is {v} {o} {p}. | We can see {s} {v} {o} {p}. |
    {o} is being {w} by {s} {p}.

places: in a tiny kitchen = in a little kitchen, at a food market = at a food fair
events: slicing/sliced = cutting/cut = a big onion = a large onion = a ripe tomato,
    frying/fried = cooking/cooked = some fish = some seafood = some chicken,
    stirring/stirred = mixing/mixed = a pot of soup = a pot of broth = a bowl of batter,
    eating/eaten = having/had = an apple pie = an apple tart = a sandwich

places: on a stage = on a platform, in a crowded bar = in a packed pub
events: playing/played = performing/performed = a sad song = a sorrowful song = a loud march,
    tuning/tuned = adjusting/adjusted = a violin = a fiddle = a guitar,
    banging/banged = hitting/hit = a drum = a kettledrum = a gong,
    recording/recorded = taping/taped = a concert = a live show = an interview

places: in a city park = in an urban park, on a beach = on the seashore
events: throwing/thrown = tossing/tossed = a ball = a baseball = a stick,
    riding/ridden = steering/steered = a motorbike = a motorcycle = a horse,
    chasing/chased = pursuing/pursued = a runner = a jogger = a cyclist,
    winning/won = finishing first in/won = a race = a sprint = a tennis match

places: behind a cottage = behind a cabin, beside a stream = beside a creek
events: planting/planted = putting in/put in = a tree = a sapling = a row of beans,
    picking/picked = gathering/gathered = a rose = a red rose = a lemon,
    digging/dug = making/made = a deep hole = a pit = a long ditch,
    trimming/trimmed = clipping/clipped = a hedge = a bush = a lawn

places: in front of a store = in front of a shop, on a bus = on a coach
events: holding/held = carrying/carried = an infant = a baby = a suitcase,
    feeding/fed = giving food to/given food = a dog = a hound = a parrot,
    petting/petted = stroking/stroked = a cat = a kitty = a donkey,
    lifting/lifted = picking up/picked up = a heavy box = a heavy crate = a sleeping toddler
"""),
    "dev": _read("""
people: a doctor = a physician, a lawyer = an attorney, a teacher = an instructor, a student = a pupil,
    a scientist = a researcher, a sailor = a seaman, a writer = an author, a manager = a supervisor
frames: {s} {v} {o} {p}. | Yesterday {s} {v} {o} {p}. | It was {s} who {v} {o} {p}. |
    As far as we know, {s} {v} {o} {p}.

places: in a workshop = in a garage, outside a factory = outside an industrial plant
events: repaired = fixed = a broken bicycle = a damaged bike = a wooden chair,
    varnished = lacquered = a fence = a railing = a door, purchased = bought = a hammer = a mallet = a saw,
    lost = misplaced = a flashlight = a torch = a ladder

places: in a library = in a reading room, at a university = at a college
events: studied = examined = an ancient map = an antique map = a mysterious manuscript,
    borrowed = checked out = a novel = a work of fiction = a dictionary,
    translated = interpreted = a poem = a verse = a letter,
    photocopied = duplicated = an article = an essay = a diploma

places: near a bridge = close to a bridge, before a storm = before a tempest
events: boarded = got on = a ship = a vessel = an airplane, rented = hired = a car = an automobile = a canoe,
    missed = failed to catch = a train = a railroad connection = a ferry,
    parked = stopped = a truck = a lorry = a trailer

places: during a meeting = during a conference, inside a bank = inside a financial institution
events: signed = endorsed = a contract = an agreement = a petition, hid = concealed = a diamond = a gem = a passport,
    sold = auctioned off = a mansion = a villa = a sculpture, discussed = talked over = a salary = a wage = a tax
"""),
}
#: By grade: label and what the second sentence changes.  `=` says a part in other words, `==` all of them, `+` leaves
#: the place out, and the letters put in another person, object, location, event of the topic, or other topic.
_SCENE_EDITS = [
    [(0.0, "pt")],
    [(1.2, "t"), (0.8, "=t")],
    [(2.2, "=e"), (1.8, "=pe")],
    [(3.2, "=o"), (2.8, "=p")],
    [(4.2, "=+"), (3.8, "=l")],
    [(5.0, "="), (5.0, "==")],
]


def _scene_pair(draw: _Draw, side: str, grade: int) -> _Row:
    head, *topics = _SCENES[side]
    label, edit = draw.pick(_SCENE_EDITS[grade])
    topic, topic2 = draw.two(topics)
    person, person2 = draw.two(head["people"])
    (event, event2), (place, place2) = draw.two(topic["events"]), draw.two(topic["places"])
    if "t" in edit:
        event2, place2 = draw.pick(topic2["events"]), draw.pick(topic2["places"])
    scene = [_forms(person), _forms(event)[0:2], _forms(event)[2:4], _forms(place)]
    other = list(scene)
    if "p" in edit:
        other[0] = _forms(person2)
    if "o" in edit:
        other[2] = _forms(event)[4:]
    if "e" in edit or "t" in edit:
        other[1:3] = _forms(event2)[0:2], _forms(event2)[2:4]
    if "l" in edit or "t" in edit:
        other[3] = _forms(place2)
    if "+" in edit:
        other[3] = [""]
    certain = int(draw.random() * 4)  # one `=` rewords this part at least
    reword = ["=" in edit and ("==" in edit or part == certain or draw.random() < 0.5) for part in range(4)]
    second = [forms[-1] if flag else forms[0] for forms, flag in zip(other, reword, strict=True)]
    pair = []
    for words in ([forms[0] for forms in scene], second):
        form, _, passive = words[1].partition("/")
        slots = {"s": words[0], "v": form, "w": passive, "o": words[2], "p": words[3]}
        pair.append(_sentence(draw.pick(head["frames"]), slots))
    text_a, text_b = draw.shuffled(pair)
    return text_a, text_b, label


def _forms(phrase: str) -> list[str]:
    return phrase.split(" = ")


# --- quora: the frames of one intent mean the same --------------------------------------------------------------------
_QUESTIONS = {
    "train": _read("""
things: Spanish, Japanese, chess, calculus, photography, ballet, piano, programming, Latin, algebra
intent 1: What is the best way to learn {x}? | What is the best way of learning {x}? | How can I teach myself {x}?
intent 2: What is the best way to teach {x} to children? | How do I get my kids to understand {x}?
intent 3: How long does it take to become good at {x}? | How many months does a beginner need for {x}?
intent 4: How much does it cost to take lessons in {x}? | What do private tutors charge for an hour of {x}?
intent 5: Is it too late for an adult to start {x}? | Am I too old to take up {x}? | Can grown-ups still learn {x}?
intent 6: Which free apps are good for {x}? | Where on the internet can one practice {x} without paying?
intent 7: Why do so many people give up {x}? | What makes students quit {x} after a short time? |
    Why do so many people stop learning {x}?

things: Paris, Tokyo, Rome, Cairo, Chicago, Madrid, Sydney, Vienna, Lisbon, Toronto
intent 1: When is the best time to visit {x}? | Which months are ideal for a trip to {x}?
intent 2: What is the best place to visit in {x}? | Which sights in {x} should nobody miss?
intent 3: How expensive is it to live in {x}? | How expensive is living in {x}? | What does a month in {x} cost?
intent 4: How safe is it to walk around in {x} at night? | Should I worry about crime in {x} after dark?
intent 5: How can a foreigner find work in {x}? | What is the easiest way to get a job in {x} from abroad? |
    How can a foreigner get a job in {x}?
intent 6: How can a foreigner find friends in {x}? | Where do newcomers to {x} get to know people?
intent 7: What is the weather like in {x} in spring? | How warm and dry is {x} in April?

things: laptop, phone, printer, camera, tablet, television, router, smartwatch
intent 1: Why is my {x} suddenly so slow? | What causes a {x} to take forever to respond?
intent 2: Why is my {x} suddenly so loud? | What can I do about the noise that my {x} makes?
intent 3: How do I clean a {x} without harming it? | How can I clean a {x} safely? | What removes dirt from a {x}?
intent 4: Where can I sell a used {x}? | Who would pay money for my old {x}? | Where do people sell a {x} they own?
intent 5: Where can I buy a used {x}? | Which stores offer a second-hand {x}? | Where are used {x} models for sale?
intent 6: How do I protect a {x} from hackers? | What keeps criminals from breaking into a {x} over the internet?
intent 7: How do I protect a {x} from heat? | What keeps a {x} cool on a hot day? | How can a {x} stay cool in summer?
"""),
    "dev": _read("""
things: puppy, kitten, hamster, rabbit, parakeet, canary, turtle, ferret
intent 1: How often should I feed my {x}? | How many meals a day does a {x} require?
intent 2: How often should I weigh my {x}? | When do I need to put a {x} on the scales?
intent 3: What should I name my new {x}? | Can anyone suggest a cute name for a {x}?
intent 4: Why does my {x} refuse to eat? | Why won't my {x} eat? | What is wrong if a {x} has no appetite?
intent 5: Why does my {x} refuse to sleep? | How come a {x} stays awake the whole night?
intent 6: Can I leave a {x} home alone for a weekend? | Is it fine if nobody looks after my {x} for two days?

things: cycling, swimming, boxing, rowing, tennis, karate, weightlifting, skiing
intent 1: Does {x} help you lose weight? | Can one get slimmer with {x}? | Is {x} useful for burning fat?
intent 2: Does {x} help you sleep? | Is {x} a remedy for insomnia?
intent 3: What clothes should I wear for {x}? | Which outfit is suitable for {x}?
intent 4: What food should I eat before {x}? | Which snack gives you energy ahead of {x}?
intent 5: Is {x} bad for your knees? | Can {x} damage the joints in the legs?
intent 6: Who is the greatest champion in the history of {x}? | Which athlete has dominated {x} like nobody else?

things: rice, cheese, honey, spinach, yogurt, garlic, butter, oatmeal, chocolate
intent 1: How do I store {x} so that it keeps? | How should one store {x} to keep it fresh? |
    What stops {x} going bad?
intent 2: How do I know that {x} has gone bad? | What are the signs of spoiled {x}?
intent 3: Is {x} healthy? | Does eating {x} do my body any good?
intent 4: Is {x} fattening? | Will I put on weight from {x}?
intent 5: Which country produces the most {x}? | What part of the world does our {x} mainly come from?
intent 6: Which country consumes the most {x}? | In what nation are people fondest of {x}?
intent 7: What can I use in a recipe instead of {x}? | Is there a good substitute for {x}?
"""),
}


_TAILS = {
    "train": ["in your experience", "to the best of your knowledge"],
    "dev": ["in your opinion", "all things considered"],
}
_DUPLICATE = {"reworded": 0.78, "same frame": 0.22}
_NOT_DUPLICATE = {"other intent": 0.28, "near intent": 0.2, "other thing": 0.2, "both": 0.16, "unrelated": 0.16}


def _question_pair(draw: _Draw, side: str, duplicate: int) -> _Row:
    topic, topic2 = draw.two(_QUESTIONS[side])
    thing, thing2 = draw.two(topic["things"])
    intents = [frames for key, frames in topic.items() if key != "things"]
    intent, intent2 = draw.two(intents)
    frame, frame2 = draw.two(intent)
    kind = draw.weighted(_DUPLICATE if duplicate else _NOT_DUPLICATE)
    if kind not in ("other thing", "both", "unrelated"):
        thing2 = thing
    if kind == "other intent":
        frame2 = draw.pick(intent2)
    elif kind == "near intent":
        # Two intents in nearly the same words: overlap must not give the label away.
        rivals = [(own, rival) for frames in intents if frames is not intent for own in intent for rival in frames]
        frame, frame2 = max(rivals, key=lambda pair: _overlap(*pair))
    elif kind in ("other thing", "same frame"):
        frame2 = frame
    elif kind == "unrelated":
        thing2 = draw.pick(topic2["things"])
        frame2 = draw.pick([frame for key, frames in topic2.items() if key != "things" for frame in frames])
    # A tail changes no intent.  Both labels have them equally often, and duplicates in the same words need one.
    if kind == "same frame" or draw.random() < (0.15 if duplicate else 0.42):
        frame2 = frame2.replace("?", f", {draw.pick(_TAILS[side])}?")
    text_a, text_b = draw.shuffled([_sentence(frame, {"x": thing}), _sentence(frame2, {"x": thing2})])
    return text_a, text_b, duplicate


def _overlap(first: str, second: str) -> float:
    """Shared words over all words of two sentences, 0 to 1."""
    one, two = set(first.lower().split()), set(second.lower().split())
    return len(one & two) / len(one | two)


# --- rows ------------------------------------------------------------------------------------------------------------
class _Draw:
    """Choices made from `random.Random.random` alone, whose sequence is the same in every Python version."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def pick(self, values: Sequence[T]) -> T:
        return values[int(self.random() * len(values))]

    def shuffled(self, values: Iterable[T]) -> list[T]:
        rest, result = list(values), []
        while rest:
            result.append(rest.pop(int(self.random() * len(rest))))
        return result

    def two(self, values: Sequence[T]) -> list[T]:
        """Two different elements."""
        return self.shuffled(values)[:2]

    def weighted(self, weights: Mapping[str, float]) -> str:
        left = self.random() * sum(weights.values())
        for name, weight in weights.items():
            left -= weight
            if left < 0:
                return name
        return name  # the sum's last digit may leave a little


def _sentence(frame: str, slots: Mapping[str, str]) -> str:
    """Fill a frame, then mend articles, gaps and the first letter."""
    text = " ".join(frame.format(**slots).split()).replace(" .", ".")
    text = re.sub(r"\b([Aa]) (?=[aeioAEIO]|u(?!ni))", r"\1n ", text)
    return text[0].upper() + text[1:]


def demo_rows(task: str, split: str) -> list[dict[str, Any]]:
    """Rows of the demo.

    Args:
        task: One of `DEMO_TASKS`.
        split: `train`, `dev` or `test`; the last one has no labels.

    Returns:
        Rows with `text_a`, `text_b` (None for `sst`), `label` (`sst` 0 to 4, `sts` 0.0 to 5.0, `quora` 0 or 1; None in
        `test`) and `id` (`demo-sst-train-17`).

    Raises:
        InputError: There is no such task or split.

    Example:
        >>> demo_rows("sst", "train")[0]["id"]
        'demo-sst-train-0'
    """
    if task not in DEMO_TASKS:
        raise unknown("task", task, DEMO_TASKS, "demo data")
    if split not in DEMO_SIZES:
        raise unknown("split", split, DEMO_SIZES, "demo data")
    # One draw serves dev and test, so that no row of test stands in dev.
    side, skip = ("train", 0) if split == "train" else ("dev", DEMO_SIZES["dev"] if split == "test" else 0)
    size = DEMO_SIZES["train"] if side == "train" else DEMO_SIZES["dev"] + DEMO_SIZES["test"]
    rows = _build(task, side, size)[skip : skip + DEMO_SIZES[split]]
    return [
        {"text_a": a, "text_b": b, "label": None if split == "test" else label, "id": f"demo-{task}-{split}-{index}"}
        for index, (a, b, label) in enumerate(rows)
    ]


def _build(task: str, side: str, size: int) -> list[_Row]:
    draw = _Draw(1 + 2 * DEMO_TASKS.index(task) + (side == "dev"))
    make = {"sst": _review, "sts": _scene_pair, "quora": _question_pair}[task]
    bounds = list(accumulate(_SHARES[task]))[:-1]
    grades = draw.shuffled(sum((index + 0.5) / size > bound for bound in bounds) for index in range(size))
    rows: dict[frozenset[str | None], _Row] = {}
    for grade in grades:
        row = make(draw, side, grade)
        while row[0] == row[1] or frozenset(row[:2]) in rows:  # no pair twice, in either order
            row = make(draw, side, grade)
        rows[frozenset(row[:2])] = row
    return list(rows.values())
