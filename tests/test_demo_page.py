"""The demo page as a person uses it: the real command, a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from qabert.cli import run
from qabert.demo_page.cards import MAX_CHARACTERS, answer_cards, cards_html, check_sentences
from qabert.demo_page.page import free_port
from qabert.errors import InputError
from qabert.tasks import PAPER_TASKS, Task

ROOT = Path(__file__).parents[1]
HOSTILE = ["<script>window.hacked=1</script>", "<img src=x onerror='hacked=2'>", "${window.hacked=3} {{value}} </td>"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# No call home by the browser itself, which isn't what is tested.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def predictor(trained):
    from qabert import Predictor

    return Predictor.from_pretrained(trained, "cpu")


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """The command, its address, and a proxy that hears whatever the server asks of others."""
    proxy = socket.create_server(("127.0.0.1", 0))
    proxy.setblocking(False)
    asked = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
    environment |= {key: asked for key in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, ROOT / "scripts/demo.py", trained, "--port", str(port), "--device", "cpu"],
        env=environment,
        cwd=tmp_path_factory.mktemp("served"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None and server.stderr is not None
        line = server.stdout.readline()
        assert line == f"http://127.0.0.1:{port} answers until Ctrl-C\n", server.stderr.read()
        yield server, port, proxy
    finally:
        server.kill()
        proxy.close()


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no chromium or chrome is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)


@pytest.fixture
def page(served, browser):
    """The page, opened; no request of it may leave this machine, and nothing in it may fail."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    hosts, wrong = set(), []
    opened.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(f"http://127.0.0.1:{served[1]}")
    opened.get_by_label("Sentence", exact=True).wait_for()
    yield opened
    context.close()
    assert hosts == {"127.0.0.1"}
    assert not wrong


def ask(page, text_a: str, text_b: str = "") -> None:
    page.get_by_label("Second sentence").fill(text_b)
    page.get_by_label("Sentence", exact=True).fill(text_a)
    page.keyboard.press("Enter")


def shown(page, explained: int) -> dict[str, list[dict]]:
    """What the cards say, by task, once so many answers are explained."""
    page.locator(".heat").nth(explained - 1).wait_for(timeout=60_000)
    found: dict[str, list[dict]] = {}
    for card in page.locator("[data-task]").all():
        bars = [re.split(r"\s*\n\s*", bar.inner_text()) for bar in card.locator(".bars li").all()]
        said = {
            "said": card.locator(".said").inner_text(),
            "shares": {label: float(share.rstrip(" %")) for label, share in bars},
            "heat": [line.inner_text() for line in card.locator(".heat td").all()],
        }
        found.setdefault(card.get_attribute("data-task"), []).append(said)
    return found


def assert_equal(card: dict, answer: dict) -> None:
    if "value" in answer:
        assert card["said"].startswith(f"{answer['value']:.2f}")
        assert "from 0 to 5" in card["said"]
    else:
        assert card["said"] == answer["label"]
        wanted = {label: 100 * share for label, share in answer["probabilities"].items()}
        assert card["shares"] == pytest.approx(wanted, abs=0.06)


def test_a_sentence_is_answered_as_the_predictor_answers_it(page, predictor):
    ask(page, "ab cd, ef gh.")
    found = shown(page, 1)
    assert list(found) == ["sst"]
    assert_equal(found["sst"][0], *predictor.predict("sst", [("ab cd, ef gh.", None)]))
    assert found["sst"][0]["heat"] == [PAPER_TASKS["sst"].question, "ab cd, ef gh."]
    assert page.get_by_text("type a second one").count() == 2
    for task in PAPER_TASKS.values():
        assert page.get_by_text(task.question).first.is_visible()


def test_two_sentences_are_answered_by_every_task(page, predictor):
    ask(page, "ab cd ef.", "gh ij kl.")
    found = shown(page, 4)
    assert list(found) == ["sst", "sts", "quora"]
    for card, row in zip(found["sst"], [("ab cd ef.", None), ("gh ij kl.", None)], strict=True):
        assert_equal(card, *predictor.predict("sst", [row]))
    for name in ("sts", "quora"):
        (card,) = found[name]
        assert_equal(card, *predictor.predict(name, [("ab cd ef.", "gh ij kl.")]))
        assert card["heat"][1:] == ["ab cd ef.", "gh ij kl."]
    assert page.get_by_text("type a second one").count() == 0


@pytest.mark.parametrize("hostile", HOSTILE)
def test_markup_in_a_sentence_is_text(page, hostile):
    ask(page, hostile, hostile)
    found = shown(page, 4)
    assert [card["heat"][-1] for card in found["sst"]] == [hostile, hostile]
    for name in ("sts", "quora"):  # a pair of them is longer than this model reads
        assert len(found[name][0]["heat"][-1]) > 20 and hostile.startswith(found[name][0]["heat"][-1])
    assert page.get_by_text(f"“{hostile}”").count() == 2
    assert page.locator("#answers script, #answers img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_what_cannot_be_answered_is_said_in_words(page):
    ask(page, "   ")
    page.get_by_text("Type a sentence first.").wait_for()
    ask(page, "", "ab")
    page.get_by_text("The first sentence is empty").wait_for()
    ask(page, "a" * (MAX_CHARACTERS + 1))
    page.get_by_text(f"has {MAX_CHARACTERS + 1:,} characters").wait_for()
    ask(page, "ab " * 500)
    assert list(shown(page, 1)) == ["sst"]
    assert page.get_by_text("the end was cut off").is_visible()
    page.get_by_role("button", name="Clear").click()
    page.locator(".card").first.wait_for(state="detached")
    assert page.get_by_label("Sentence", exact=True).input_value() == ""


def test_examples_and_ways_to_explain(page):
    page.get_by_text("A man plays a guitar. / Someone makes music.").click()
    assert list(shown(page, 4)) == ["sst", "sts", "quora"]
    assert page.get_by_label("Second sentence").input_value() == "Someone makes music."
    page.get_by_label("Where the model looked").click()
    page.get_by_text("attention rollout").wait_for()
    page.get_by_label("Don't explain").click()
    page.locator(".heat").first.wait_for(state="detached")
    assert page.locator("[data-task]").count() == 4


def test_a_phone_has_nothing_beside_its_screen_and_colours_follow_the_system(served, browser):
    grounds = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{served[1]}")
        ask(page, "ab cd ef " * 12 + "a" * 200, "gh ij kl.")
        shown(page, 4)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.locator("#answers").get_attribute("aria-live") == "polite"
        context.close()
    assert grounds["light"] != grounds["dark"]


def test_only_this_machine_is_listened_to_and_nobody_else_is_asked(served):
    _, port, proxy = served
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(ConnectionRefusedError):  # whoever listens to every address listens there too
        socket.create_connection(("127.0.0.2", port), timeout=5)
    with pytest.raises(BlockingIOError):  # telemetry, a check for a newer version, …
        proxy.accept()


def test_ctrl_c_ends_it_as_it_ends_every_command(served):
    server = served[0]
    server.send_signal(signal.SIGINT)
    try:
        _, errors = server.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGABRT)  # it then says where each of its threads is
        pytest.fail(f"it goes on after Ctrl-C:\n{server.communicate(timeout=30)[1]}")
    assert server.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors


# --- without a browser -----------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named_before_a_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stop:
        run("demo", ["no/such/model", "--port", str(taken.getsockname()[1])])
    assert stop.value.code == 2
    assert re.match(r"error: --port \d+: another program listens there", capsys.readouterr().err)


def test_without_a_port_the_next_free_one_is_taken():
    first = free_port(None)
    with socket.create_server(("127.0.0.1", first)):
        assert free_port(None) > first


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (("", ""), "Type a sentence"),
        (("\n\t", ""), "Type a sentence"),
        (("", "ab"), "first sentence is empty"),
        (("\ud800", ""), "half a character"),
        (("ab", "\udfff"), "second sentence holds half a character"),
        (("ab", "b" * (MAX_CHARACTERS + 1)), "second sentence has 10,001"),
    ],
)
def test_sentences_that_cannot_be(texts, problem):
    with pytest.raises(InputError, match=problem):
        check_sentences(*texts)


def test_blanks_around_a_sentence_are_dropped():
    assert check_sentences(" ab\n", " ") == ("ab", None)


def test_own_tasks_with_names_that_are_markup_and_many_labels(tmp_path, save_checkpoint):
    from qabert import Predictor

    labels = tuple(f"<b>{number}</b>" for number in range(40))
    tasks = [
        Task(name="many", problem="classification", question="<i>?</i>", labels=labels, columns={"text_a": "a"}),
        Task(name="degrees", problem="regression", question="How warm?", range=(-10.0, 30.0), columns={"text_a": "a"}),
    ]
    predictor = Predictor.from_pretrained(save_checkpoint(tmp_path, tasks=tasks), "cpu")
    (cards,) = answer_cards(predictor, "ab cd", None)
    html = cards_html(cards)
    assert "<b>" not in html and "<i>" not in html
    assert html.count("&lt;b&gt;") == 12 + 1  # the bars and the answer
    assert "and 28 less likely labels" in html
    assert "on a scale from -10 to 30" in html
    (answer,) = predictor.predict("degrees", [("ab cd", None)])
    assert cards[1].answers[0].place == pytest.approx((answer["value"] + 10) / 40, abs=1e-4)


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(SystemExit) as stop:
        run("demo", ["no/such/model"])
    assert stop.value.code == 2
    assert 'pip install -e ".[demo]"' in capsys.readouterr().err
