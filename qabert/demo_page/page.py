"""The page around the cards, served to this machine alone.

Gradio makes it: a label for every field, keyboard and screen reader, light and dark.  Nothing is asked of any other
machine: no telemetry, no check for versions, and the fonts are the system's.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qabert.errors import InputError

if TYPE_CHECKING:
    from gradio import Blocks

    from qabert.inference import Predictor

HOST = "127.0.0.1"
FIRST_PORT, PORTS = 7860, 100
EXAMPLES = [
    ["I loved every minute of it.", ""],
    ["The plot is thin, and the ending made it worse.", ""],
    ["A man plays a guitar.", "Someone makes music."],
    ["How do I learn to cook?", "How can I learn cooking?"],
]


def require_gradio() -> None:
    """Say how to install what the page needs.

    Raises:
        InputError: gradio or captum isn't installed.
    """
    import importlib.util

    for package in ("gradio", "captum"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f'the demo page needs {package}, which isn\'t installed: pip install -e ".[demo]"')


def free_port(wanted: int | None) -> int:
    """The port asked for, or the first free one from 7860 on.

    Raises:
        InputError: The port asked for is taken or not allowed, or none of a hundred is free.
    """
    for port in [wanted] if wanted is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((HOST, port))
                return port
            except OSError as error:
                if wanted is not None:
                    reason = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
                    raise InputError(
                        f"--port {port}: {reason}; give another one, or none for the first free one from {FIRST_PORT}"
                    ) from None
    raise InputError(f"--port: none is free from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}; give one")


def build_page(predictor: Predictor, name: str) -> Blocks:
    """The page of a model; `name` stands in its title."""
    _quiet()
    import gradio as gr

    from qabert.demo_page.cards import METHODS, answer_cards, cards_html, check_sentences, heading_html, message_html

    def answer(text_a: str | None, text_b: str | None, method: str) -> Iterator[str]:
        try:
            row = check_sentences(text_a or "", text_b or "")
            for cards in answer_cards(predictor, *row, method):
                yield cards_html(cards, busy=method != "none")
        except InputError as error:
            yield message_html(str(error))

    pairs = any(task.pair for task in predictor.tasks.values())
    single = any(not task.pair for task in predictor.tasks.values())
    with gr.Blocks(title=f"qabert: {name}", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(heading_html(name, len(predictor.tasks)), js_on_load=None)
        with gr.Row(elem_id="inputs"):
            text_a = gr.Textbox(label="Sentence" if single else "First sentence", lines=1, max_lines=6, autofocus=True,
                                placeholder="Type a sentence, then press Enter", min_width=280)  # fmt: skip
            text_b = gr.Textbox(label="Second sentence" + (", to compare them" if single else ""), lines=1, max_lines=6,
                                placeholder="Only for tasks of pairs", min_width=280, visible=pairs)  # fmt: skip
        method = gr.Radio([(text, key) for key, text in METHODS.items()], value="gradients", label="Why this answer?")
        with gr.Row(elem_id="buttons"):
            ask = gr.Button("Answer", variant="primary", scale=3, min_width=120)
            clear = gr.Button("Clear", scale=1, min_width=80)
        rows = [row for row in EXAMPLES if pairs or not row[1]]
        examples = gr.Examples(
            rows,
            [text_a, text_b],
            label="Some sentences to try",
            example_labels=[" / ".join(filter(None, row)) for row in rows],
        )
        cards = gr.HTML("", elem_id="answers", js_on_load=None)
        shown: Any = {"fn": answer, "inputs": [text_a, text_b, method], "outputs": cards, "api_visibility": "private"}
        shown |= {"show_progress": "minimal", "concurrency_id": "model"}  # one question at a time, so that memory stays
        asked = gr.on([ask.click, text_a.submit, text_b.submit, method.input], **shown, trigger_mode="always_last")
        chosen = examples.load_input_event.then(**shown)
        clear.click(
            lambda: ("", "", ""),
            None,
            [text_a, text_b, cards],
            api_visibility="private",
            queue=False,
            cancels=[asked, chosen],  # an explanation under way would come back
        )
        # Screen readers say new answers.
        page.load(js="() => { document.getElementById('answers').setAttribute('aria-live', 'polite') }")
    return page


def serve(predictor: Predictor, name: str, port: int) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        InputError: The port was taken meanwhile.
    """
    page = build_page(predictor, name)
    from gradio.themes import Base, colors

    fonts = ("system-ui", "sans-serif")
    theme = Base(
        primary_hue=colors.blue, neutral_hue=colors.slate, font=fonts, font_mono=("ui-monospace", "monospace")
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_600",  # a contrast of 4.5 and more with what is behind
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_background_fill="white",
        input_border_width="1px",
        input_border_color="*neutral_400",
        input_border_color_dark="*neutral_500",
    )
    try:
        page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
            run_history=False,
            theme=theme,
            css=(Path(__file__).parent / "style.css").read_text(encoding="utf-8"),
        )
    except OSError as error:
        raise InputError(f"--port {port}: the page can't be served there: {error}") from None
    try:
        print(f"http://{HOST}:{port} answers until Ctrl-C", flush=True)
        while True:
            time.sleep(3600)
    finally:
        page.close(verbose=False)


def _quiet() -> None:
    """Nothing leaves this machine, and a proxy isn't asked for what is on it; read when gradio is imported and used."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.pop("GRADIO_NUM_WORKERS", None)  # processes on further ports, for pages with many readers
    for key in ("no_proxy", "NO_PROXY"):
        os.environ[key] = ",".join(filter(None, (os.environ.get(key), HOST)))
