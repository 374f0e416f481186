"""Write the rows of this example: `python scripts/examples/own_tasks/make_rows.py`.

All of them are invented by the qabert project and free to use.  Dev rows are made of words and frames that no training
row has.  The same rows come out everywhere: the choices are made of `random.Random.random` alone.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

SIZES = {"train": 420, "dev": 150}
Draw = Callable[[], float]


def bank(text: str) -> dict[str, list[str]]:
    """Lists by key of `key: one | two` lines, indented where they go on."""
    pairs = (line.split(":", 1) for line in re.sub(r"\n\s+", " ", text.strip()).splitlines())
    return {key: [value.strip() for value in values.split("|")] for key, values in pairs}


def pick(draw: Draw, values: Sequence[str]) -> str:
    return values[int(draw() * len(values))]


def sentence(text: str) -> str:
    text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", " ".join(text.split()))
    return text[0].upper() + text[1:]


# --- topic: what happened to whom, by topic ---------------------------------------------------------------------------
TOPICS = ("sports", "business", "science", "weather", "culture")
HEADLINES = {
    "train": bank("""
frames: {s} {p} | Today: {s} {p} | {s} {p}, officials say | Why {s} {p} | Live: {s} {p}
sports s: the goalkeeper | a young sprinter | the national team | the league leaders | the veteran coach | the
    swimmer
sports p: wins the final in extra time | loses the title match | sets a record in the relay | misses the cup
    with a knee injury | trains for the marathon | scores twice in the derby
business s: the carmaker | a family bank | the airline | the largest retailer | the central bank | an online shop
business p: cuts prices to win back customers | reports a loss for the quarter | raises interest rates | lays
    off a tenth of its staff | buys its oldest rival | sells shares to pay its debts
science s: a team of physicists | the space agency | biologists | a chemistry professor | the telescope | young
    researchers
science p: finds a new particle | measures the orbit of a distant planet | grows living cells in the laboratory
    | explains how bees navigate | sends a probe to the moon | publishes a map of the genome
weather s: a heavy storm | the first snow | the heat wave | thick fog | a week of rain | strong wind
weather p: closes the mountain pass | moves towards the coast | floods cellars in the valley | brings
    temperatures below zero | ends after ten dry days | uproots trees in the north
culture s: the old theater | a first novel | the opera house | the museum | a jazz pianist | the film festival
culture p: opens with a tragedy | wins the prize of the critics | shows portraits that nobody has seen | sells
    out every evening | celebrates a forgotten composer | returns to the stage
"""),
    "dev": bank("""
frames: Report: {s} {p} | {s} {p} after all | Once again {s} {p} | {s} {p} – our readers respond
sports s: the striker | an Olympic rower | the tennis champion | the basketball club | our hockey players
sports p: celebrates a late goal | drops out of the tournament | beats the world number one | signs a defender
    for next season | reaches the semifinal
business s: the insurer | a software company | the steel maker | two investors | the supermarket chain
business p: doubles its profit | files for bankruptcy | plans a merger | pays a higher dividend | warns of
    falling sales
science s: astronomers | a virologist | the particle accelerator | geologists | an expedition of marine researchers
science p: detects water on a comet | tests a vaccine in mice | dates the oldest fossil | observes a supernova |
    discovers a species of jellyfish
weather s: a hurricane | hail | the drought | a thunderstorm | frost
weather p: damages the harvest | approaches the islands | keeps drivers off icy roads | breaks with long showers
    | darkens the sky over the bay
culture s: the gallery | a poet | the orchestra | a painter | the ballet
culture p: invites visitors to an exhibition of sculptures | reads from a volume of verse | plays a symphony |
    premieres a comedy | unveils a mural
"""),
}


def headline(draw: Draw, side: str, label: int) -> tuple[dict[str, str], str]:
    words, name = HEADLINES[side], TOPICS[label]
    who, what = pick(draw, words[f"{name} s"]), pick(draw, words[f"{name} p"])
    return {"headline": sentence(pick(draw, words["frames"]).format(s=who, p=what))}, name


# --- urgency, 0 to 10: how bad it is (0 to 5) and how soon it has to be done (0 to 5) ---------------------------------
MESSAGES = {
    "train": bank("""
frames: {w}. Please look at it {d}. | Hello, {w}. It should be solved {d}. | {w}, and we would like an answer
    {d}. | New ticket: {w}. Wanted: a solution {d}. | Good day! {w}. We hope for an answer {d}. | {w}. Can you
    help us {d}?
what 0: the logo on the start page is a little blurred | I have an idea for another color of the menu | there is
    a typo in your newsletter
what 1: the search sorts names in an odd way | one of the pictures loads slowly | the font is hard to read on my
    phone
what 2: the weekly summary came a day late | I can't change the language of my account | a link in the manual
    leads nowhere
what 3: invoices show the wrong address | half of our team gets no notifications | exports stop after the first page
what 4: nobody in our office can log in | orders vanish from the list | customers are charged twice
what 5: the whole shop is down and we lose money | strangers can read our patients' files | all our data has
    been deleted
when 0: whenever you have nothing else to do | some time next year
when 1: in the course of next month | when it suits you in a few weeks
when 2: by the end of next week | within ten days
when 3: in two or three days | before Friday
when 4: tomorrow morning | by tonight if you can
when 5: right now | within the next few minutes
"""),
    "dev": bank("""
frames: We noticed that {w}; somebody ought to deal with it {d}. | {w}. Could this be handled {d}? | To whom it
    may concern: {w}. We count on help {d}.
what 0: your mascot could smile a bit more | the footer still shows last year's date
what 1: the calendar starts on Sundays, which is unusual here | the sound of a new message is rather loud
what 2: my profile picture can't be replaced | an attachment had to be uploaded twice
what 3: reports add some amounts up wrongly | several colleagues receive no e-mails
what 4: no employee is able to open any document | payments of our clients fail
what 5: hackers are stealing our passwords | the entire system has crashed and the hospital stands still
when 0: one fine day, there is no hurry at all | if you ever get bored
when 1: before the season is over | at some point in the coming weeks
when 2: in about a week | not later than the week after this one
when 3: the day after tomorrow | within three days
when 4: today before we close | in the next few hours
when 5: immediately | this very second
"""),
}


def message(draw: Draw, side: str, level: int) -> tuple[dict[str, str], float]:
    words = MESSAGES[side]
    bad = min(max(level + int(draw() * 3) - 1, 0), 5)
    soon = min(max(level + int(draw() * 3) - 1, 0), 5)
    what, when = pick(draw, words[f"what {bad}"]), pick(draw, words[f"when {soon}"])
    frame = pick(draw, words["frames"])
    return {"message": sentence(frame.format(w=what, d=when))}, float(bad + soon)


# --- entailment: `=` parts a phrase from what follows from it ---------------------------------------------------------
RELATIONS = ("entailment", "neutral", "contradiction")
SCENES = {
    "train": bank("""
who: a woman = an adult | a boy = a child | a nurse = a person | two girls = children | a farmer = a worker | a
    grandfather = a man
does: painting a fence = working with paint | eating a peach = having some fruit | riding a pony = sitting on an
    animal | reading a letter = looking at some paper | playing a flute = making music | washing a car =
    cleaning a vehicle | feeding a dog = giving an animal food | sweeping the floor = cleaning up
out: in a garden | on a beach | in a meadow
in: in a kitchen | in a living room | in a classroom
frames: {who} {is} {does} {where}.
entailment: {general} {is} {does}. | {who} {is} {follows}. | {general} {is} {follows}. | {who} {is} {side}. |
    {who} {is} not asleep. | {who} {is} doing something.
neutral: {who} {is} {does} for a friend. | {who} {is} tired. | {who} {is} {does} for the first time. | {who}
    {is} {where} every day. | {who} {is} not hungry. | {general} {is} proud of it.
contradiction: nobody is {does}. | {who} {is} asleep. | {who} {is} {other}. | {who} {is} {opposite}. | {general}
    {is} not {follows}. | there is nobody {where}.
"""),
    "dev": bank("""
who: a teacher = a grown-up | a toddler = a little kid | three students = young people | a fisherman = a human
    being | a waiter = an employee
does: baking bread = preparing food | drawing a horse = making a picture | throwing a ball = moving an object |
    climbing a ladder = going up | carrying a baby = holding an infant | sewing a shirt = working on clothes
out: on a lawn | in the woods | on a hill
in: in a library | in a bedroom | in a basement
frames: at the moment, {who} {is} {does} {where}.
entailment: right now, {general} {is} {does}. | right now, {who} {is} {follows}. | somebody is {follows}. | we
    can find {who} {side}. | {who} {is} awake.
neutral: {who} {is} {does} because of a bet. | {who} {is} in love. | {who} {is} {does} better than last year. |
    {who} {is} thinking about dinner. | {who} {is} paid for it.
contradiction: no one is {does}. | {who} {is} dead. | right now, {who} {is} {other}. | we can find {who}
    {opposite}. | {who} {is} never {follows}.
"""),
}


def pair(draw: Draw, side: str, label: int) -> tuple[dict[str, str], str]:
    words, name = SCENES[side], RELATIONS[label]
    who, general = pick(draw, words["who"]).split(" = ")
    does, follows = pick(draw, words["does"]).split(" = ")
    other = pick(draw, [one for one in words["does"] if not one.startswith(does)]).split(" = ")[0]
    outside = draw() < 0.5
    slots = {"who": who, "general": general, "does": does, "follows": follows, "other": f"{other} instead"}
    slots |= {"where": pick(draw, words["out" if outside else "in"]), "is": "is" if who.startswith("a") else "are"}
    slots |= dict(
        zip(("side", "opposite"), ("outdoors", "indoors") if outside else ("indoors", "outdoors"), strict=True)
    )
    premise, hypothesis = (sentence(pick(draw, words[key]).format(**slots)) for key in ("frames", name))
    return {"premise": premise, "hypothesis": hypothesis}, name


# --- files ------------------------------------------------------------------------------------------------------------
TASKS = {"topic": (headline, len(TOPICS), 1), "urgency": (message, 6, 3), "entailment": (pair, len(RELATIONS), 5)}


def rows(task: str, side: str) -> list[dict[str, str | float]]:
    """Rows of a task's split: no two of them have the same texts, and the labels follow each other in turn."""
    make, labels, seed = TASKS[task]
    draw = random.Random(seed + (side == "dev")).random
    made: dict[tuple[str, ...], dict[str, str | float]] = {}
    while len(made) < SIZES[side]:
        texts, label = make(draw, side, len(made) % labels)
        made.setdefault(tuple(texts.values()), {**texts, task: label})
    return list(made.values())


def write(folder: Path) -> None:
    """Write a file for each task and split, each task's in another format."""
    for side in SIZES:
        for task, suffix, delimiter in (("topic", "csv", ","), ("entailment", "tsv", "\t")):
            table = rows(task, side)
            with (folder / f"{task}-{side}.{suffix}").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(table[0]), delimiter=delimiter, lineterminator="\n")
                writer.writeheader()
                writer.writerows(table)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows("urgency", side)]
        (folder / f"urgency-{side}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
