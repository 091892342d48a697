"""The page as Gradio blocks: tabs and form fields. What the fields hold is handed to our scripts; none of them calls
Python, so that nothing a visitor types or uploads ever reaches Gradio's server side.

Gradio takes seconds to import and is handed in by `ui.mount`. A place for a script is an empty element whose module in
``ui_static/`` fills it; all scripts put text in as text, never as HTML.
"""

import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from zhiyin.audio.vad import Thresholds
from zhiyin.serve.job import MODES, STATES
from zhiyin.tasks.table import TASKS

Words = Mapping[str, str]
_QUIET: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}  # of events: no server
FONT = (
    "system-ui",
    "-apple-system",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "sans-serif",
)
MONO = ("ui-monospace", "Menlo", "Consolas", "Noto Sans Mono CJK SC", "monospace")


def theme(gr: ModuleType) -> Any:
    """Calm colours and the fonts that are there; none is fetched."""
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", radius_size="md", text_size="md", font=FONT, font_mono=MONO
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        color_accent="*primary_700",
        input_background_fill="white",
        input_border_width="1px",
        block_radius="12px",
        input_background_fill_dark="*neutral_800",
    )


def build(gr: ModuleType, words: Words) -> Any:
    """The whole page in one language."""
    with gr.Blocks(title=words["title"], analytics_enabled=False, fill_width=True) as page:
        _place(gr, "page")
        with gr.Tabs(elem_id="zy-tabs"):
            with gr.Tab(words["tab_recognise"], id="recognise"):
                recognise = _recognise(gr, words)
            with gr.Tab(words["tab_live"], id="live"):
                live = _live(gr, words)
            with gr.Tab(words["tab_batch"], id="batch"):
                batch = _batch(gr, words)
            with gr.Tab(words["tab_history"], id="history"):
                history = _history(gr, words)
            with gr.Tab(words["tab_vad"], id="vad"):
                vad = _vad(gr, words)
            with gr.Tab(words["tab_system"], id="system"):
                _place(gr, "system")
        forms = {"recognise": recognise, "live": live, "batch": batch, "history": history, "vad": vad}
        for name, fields in forms.items():
            _hand_over(gr, page, name, fields)
        _fit_to_model(page, forms)
    return page


def _place(gr: ModuleType, module: str, function: str = "mount") -> None:
    """An empty element that a script fills."""
    script = f"import('/ui/{module}.js').then((module) => module.{function}(element));"
    gr.HTML("", js_on_load=script, apply_default_css=False, elem_classes=["zy"], elem_id=f"zy-{module}-{function}")


def _hand_over(gr: ModuleType, page: Any, form: str, fields: Mapping[str, Any]) -> None:
    """Keep the values of a form in ``window.zhiyin[form]`` and tell the scripts when they change."""
    script = (
        f"(...values) => {{ const form = Object.fromEntries({json.dumps(list(fields))}.map((n, i) => [n, values[i]]));"
        f" (window.zhiyin ??= {{}}).{form} = form;"
        f" document.dispatchEvent(new CustomEvent('zhiyin:{form}', {{ detail: form }})); }}"
    )
    triggers = [page.load, *(field.change for field in fields.values())]
    gr.on(
        triggers,
        None,
        list(fields.values()),
        None,
        js=script,
        trigger_mode="multiple",  # or what changes while the script runs is lost
        **_QUIET,
    )


def _fit_to_model(page: Any, forms: Mapping[str, Mapping[str, Any]]) -> None:
    """Offer the tasks and languages of the model that is loaded, and the hotword lists of this user."""
    kinds = ("tasks", "language", "into", "saved", "everyone")
    places = [(form, kind) for form, fields in forms.items() for kind in kinds if kind in fields]
    asked = ["filter" if place == ("history", "language") else place[1] for place in places]
    script = f"async () => (await import('/ui/choices.js')).fit({json.dumps(asked)})"
    page.load(
        None,
        None,
        [forms[form][kind] for form, kind in places],
        js=script,
        **_QUIET,
    )


def _wish(gr: ModuleType, words: Words, *, is_live: bool = False) -> dict[str, Any]:
    """Fields for what is asked of a recording; `api.js` turns them into the fields of the API."""
    zh = words["brand"] == "知音"
    tasks = [(task.title_zh if zh else task.title, task.id) for task in TASKS]
    fields: dict[str, Any] = {}
    if not is_live:
        ways = [(words["ask_tasks"], "tasks"), (words["ask_words"], "words")]
        fields["ask"] = gr.Radio(ways, value="tasks", label=words["ask"])
    fields["tasks"] = gr.CheckboxGroup(tasks, value=["asr"], label=words["tasks"])
    if not is_live:
        hint = words["instruction_hint"]
        fields["instruction"] = gr.Textbox(
            "",
            label=words["instruction"],
            placeholder=hint,
            lines=2,
            max_lines=6,
            visible=False,
            elem_id="zy-instruction",
        )
        _one_of(fields["ask"], fields["tasks"], fields["instruction"])
    fields["language"] = gr.Dropdown([(words["automatic"], "")], value="", label=words["language"])
    fields["itn"] = gr.Checkbox(True, label=words["itn"])
    with gr.Accordion(words["hotwords"] if is_live else words["more"], open=False):
        _hotwords(gr, words, fields)
        if not is_live:
            fields["into"] = gr.Dropdown([(words["no_translation"], "")], value="", label=words["into"])
            fields["speakers"] = gr.Checkbox(False, label=words["speakers"])
            ways = [(words["channels_mix"], "mix"), (words["channels_split"], "split")]
            fields["channels"] = gr.Radio(ways, value="mix", label=words["channels"])
    return fields


def _hotwords(gr: ModuleType, words: Words, fields: dict[str, Any]) -> None:
    """Hotwords, and lists of them that were saved under a name."""
    fields["hotwords"] = gr.Textbox(
        "", label=words["hotwords"], placeholder=words["hotwords_hint"], lines=3, max_lines=12
    )
    fields["saved"] = gr.Dropdown([("—", "")], value="", label=words["hotwords_saved"])
    with gr.Row():
        save = gr.Button(words["hotwords_save"], size="sm")
        remove = gr.Button(words["hotwords_remove"], size="sm")
    text, saved = fields["hotwords"], fields["saved"]
    script = "async (...given) => (await import('/ui/choices.js')).{}(...given)"
    saved.input(None, [saved, text], [text], js=script.format("loadList"), **_QUIET)
    save.click(None, [saved, text], [saved], js=script.format("saveList"), **_QUIET)
    remove.click(None, [saved], [saved], js=script.format("removeList"), **_QUIET)


def _one_of(ask: Any, tasks: Any, instruction: Any) -> None:
    """Tasks or plain language: one of the two is seen."""
    script = "(way) => [{__type__: 'update', visible: way === 'tasks'}, {__type__: 'update', visible: way === 'words'}]"
    ask.change(
        None,
        [ask],
        [tasks, instruction],
        js=script,
        **_QUIET,
    )


def _recognise(gr: ModuleType, words: Words) -> dict[str, Any]:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            _place(gr, "recognise", "mountSource")
            fields = _wish(gr, words)
            _place(gr, "recognise", "mountStart")
        with gr.Column(scale=7, min_width=320):
            _place(gr, "recognise", "mountResult")
    return fields


def _live(gr: ModuleType, words: Words) -> dict[str, Any]:
    with gr.Row(equal_height=False):
        with gr.Column(scale=8, min_width=320):
            _place(gr, "live")
        with gr.Column(scale=4, min_width=280):
            return _wish(gr, words, is_live=True)


def _batch(gr: ModuleType, words: Words) -> dict[str, Any]:
    with gr.Row(equal_height=False):
        with gr.Column(scale=8, min_width=320):
            _place(gr, "batch")
        with gr.Column(scale=4, min_width=280):
            return _wish(gr, words)


def _history(gr: ModuleType, words: Words) -> dict[str, Any]:
    every = (words["all"], "")
    fields = {
        "text": gr.Textbox(
            "", label=words["search"], placeholder=words["search_hint"], max_lines=1, elem_id="zy-search"
        )
    }
    with gr.Accordion(words["filters"], open=False):
        with gr.Row():
            states = [every, *((words[f"state_{state}"], state) for state in STATES)]
            fields["state"] = gr.Dropdown(states, value="", label=words["state"], min_width=150)
            modes = [every, *((words[f"mode_{mode}"], mode) for mode in MODES)]
            fields["mode"] = gr.Dropdown(modes, value="", label=words["mode"], min_width=150)
            fields["language"] = gr.Dropdown([every], value="", label=words["language"], min_width=150)
            fields["label"] = gr.Textbox("", label=words["label"], max_lines=1, placeholder="female", min_width=150)
        with gr.Row():
            fields["since"] = gr.Textbox("", label=words["since"], placeholder="2026-01-31", max_lines=1, min_width=150)
            fields["until"] = gr.Textbox("", label=words["until"], placeholder="2026-12-31", max_lines=1, min_width=150)
            orders = [(words["newest"], "newest"), (words["oldest"], "oldest")]
            fields["order"] = gr.Dropdown(orders, value="newest", label=words["order"], min_width=150)
            fields["deleted"] = gr.Checkbox(False, label=words["show_deleted"], min_width=150)
            fields["everyone"] = gr.Checkbox(False, label=words["everyone"], min_width=150, visible=False)
    _place(gr, "history")
    return fields


def _vad(gr: ModuleType, words: Words) -> dict[str, Any]:
    usual = Thresholds()
    with gr.Row(equal_height=False):
        with gr.Column(scale=8, min_width=320):
            _place(gr, "vad")
        with gr.Column(scale=4, min_width=280), gr.Accordion(words["vad_parameters"]):
            return {
                "start": gr.Slider(0.05, 0.95, usual.start, step=0.05, label=words["vad_begin"]),
                "end": gr.Slider(0.05, 0.95, usual.end, step=0.05, label=words["vad_end"]),
                "peak": gr.Slider(0.05, 0.95, usual.peak, step=0.05, label=words["vad_peak"]),
                "min_silence_s": gr.Slider(0.1, 3, usual.min_silence_s, step=0.05, label=words["vad_min_silence"]),
                "min_speech_s": gr.Slider(0.03, 2, usual.min_speech_s, step=0.01, label=words["vad_min_speech"]),
                "pad_s": gr.Slider(0, 0.5, usual.pad_s, step=0.01, label=words["vad_pad"]),
            }
