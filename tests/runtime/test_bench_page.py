"""The HTML page of a benchmark, in a browser and as text: made-up figures are found again where they belong."""

import json
import math
import re
import shutil
import subprocess
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from importlib import resources
from itertools import combinations

import numpy as np
import pytest

from esrgan_bench.page import axes, write_page
from esrgan_deploy.errors import OutputError
from made_up_figures import GRID, NETWORKS, PEAKS, SIZES, THREADS, content, page_of, result

# --- in a browser -----------------------------------------------------------------------------------------------------

MEASURE = """
const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
const shown = (root, what) => [...root.querySelectorAll(what)].filter(e => e.getClientRects().length);
const plot = svg => ({
  name: svg.getAttribute("aria-label"), size: svg.getAttribute("class"), box: box(svg),
  texts: shown(svg, "text").map(t => ({words: t.textContent, kind: t.getAttribute("class"), box: box(t)})),
  marks: shown(svg, ".mark").map(m => {
    const at = new DOMPoint(0, 0).matrixTransform(m.getScreenCTM());
    return {says: m.querySelector("title").textContent, x: at.x, y: at.y, colour: getComputedStyle(m).fill};
  }),
  lines: shown(svg, ".roof, .whisker, .guide").map(l => ({kind: l.getAttribute("class"), box: box(l)})),
});
const frame = (html, width, scheme) => new Promise(done => {
  const f = document.createElement("iframe");
  f.style = `width: ${width}px; height: 800px; border: 0; color-scheme: ${scheme}`;
  f.srcdoc = html;
  f.onload = () => {
    const root = f.contentDocument.documentElement;
    const paper = getComputedStyle(f.contentDocument.body).backgroundColor;
    done({ overflow: root.scrollWidth - root.clientWidth, paper, plots: shown(root, "svg.plot").map(plot) });
  };
  document.body.append(f);
});
Promise.all(FRAMES.map(([page, width, scheme]) => frame(PAGES[page], width, scheme))).then(found => {
  document.body.textContent = JSON.stringify(found);
});
"""
PAGES = {"grid": GRID, "threads": THREADS, "one": [result("big_x4_a0.80", ("ort", "fp32"), (128, 128))]}
FRAMES = [("grid", 390, "light"), ("grid", 1200, "light"), ("threads", 390, "dark"), ("threads", 1200, "light")]
FRAMES += [("one", 320, "light"), ("one", 1200, "light")]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What Chromium shows of each page: {(page, width): what MEASURE collects}, all of one run of the browser."""
    if not shutil.which("chromium"):
        pytest.skip("needs chromium")
    folder = tmp_path_factory.mktemp("pages")
    pages = json.dumps({name: page_of(folder, results) for name, results in PAGES.items()}).replace("</", "<\\/")
    script = f"const PAGES = {pages}, FRAMES = {json.dumps(FRAMES)};{MEASURE}"
    (folder / "driver.html").write_text(f'<!DOCTYPE html><meta charset="utf-8"><body><script>{script}</script>')
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
    options += ("--disable-background-networking", "--enable-logging=stderr", f"--user-data-dir={folder}/user")
    command = ["chromium", *options]
    command += ["--virtual-time-budget=5000", "--dump-dom", str(folder / "driver.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(unescape(re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)[1]))
    return {(page, width): frame for (page, width, _), frame in zip(FRAMES, found, strict=True)}


def plots_of(seen):
    return [plot for frame in seen.values() for plot in frame["plots"]]


def test_no_page_is_wider_than_its_window(seen):
    assert {key: frame["overflow"] for key, frame in seen.items()} == dict.fromkeys(seen, 0)


def test_words_of_a_plot_neither_touch_nor_leave_it(seen):
    for plot in plots_of(seen):
        left, top, right, bottom = plot["box"]
        for text in plot["texts"]:
            x0, y0, x1, y1 = text["box"]
            assert (left - 1 <= x0, x1 <= right + 1, top - 1 <= y0, y1 <= bottom + 1) == (True,) * 4, (
                plot["name"],
                text,
            )
        for a, b in combinations(plot["texts"], 2):
            overlap = [min(a["box"][i + 2], b["box"][i + 2]) - max(a["box"][i], b["box"][i]) for i in (0, 1)]
            assert min(overlap) < 2, (plot["name"], a, b)  # line boxes are a little higher than letters


def test_one_plot_alone_is_drawn_for_the_width_and_several_stand_side_by_side(seen):
    assert {plot["size"] for plot in seen["one", 320]["plots"]} == {"plot narrow"}
    assert {plot["size"] for plot in seen["one", 1200]["plots"]} == {"plot wide"}
    lefts = {width: Counter(round(plot["box"][0]) for plot in seen["grid", width]["plots"]) for width in (390, 1200)}
    assert len(lefts[390]) == 1
    assert len(lefts[1200]) == 2


def test_dark_and_light_follow_the_reader(seen):
    papers = {key: frame["paper"] for key, frame in seen.items()}
    assert papers["threads", 390] == "rgb(20, 23, 26)"
    assert papers["threads", 1200] == "rgb(255, 255, 255)"
    marks = [{mark["colour"] for plot in seen["threads", w]["plots"] for mark in plot["marks"]} for w in (390, 1200)]
    assert [len(colours) for colours in marks] == [3, 3]
    assert not marks[0] & marks[1]


def middle(box, direction):
    return (box[direction] + box[direction + 2]) / 2


def scale_of(plot, direction):
    """From values to pixels, read off the ticks as a reader would: a straight line through them or their logarithms."""
    ticks = [text for text in plot["texts"] if text["kind"] == f"tick {'xy'[direction]}"]
    assert len(ticks) >= 2, plot["name"]
    values = np.array([math.prod(map(float, tick["words"].replace("\u202f", "").split("x"))) for tick in ticks])
    places = np.array([middle(tick["box"], direction) for tick in ticks])
    transformed = np.log if values.min() > 0 else np.array
    slope, zero = np.polyfit(transformed(values), places, 1)
    assert np.abs(slope * transformed(values) + zero - places).max() < 1.5, plot["name"]
    return lambda value: slope * transformed(value) + zero


def result_of(mark, results):
    """The entry that a mark says it shows."""
    model, kind, size, threads, streams, batch = mark["says"].split(": ")[0].split(" · ")
    width, height = map(int, size.split("x"))
    wanted = (model, *kind.split(), width, height, *(int(re.search(r"\d+", t)[0]) for t in (threads, streams, batch)))
    keys = ("model", "backend", "precision", "width", "height", "threads", "streams", "batch")
    (found,) = [r for r in results if tuple(r[key] for key in keys) == wanted]
    return found


def first_of_line(result, results, axis):
    """The entry with the least on one axis among those that are the same in all else."""
    same = [key for key in ("model", "backend", "width", "height", "threads", "streams", "batch") if key != axis]
    return min((r for r in results if all(r[key] == result[key] for key in same)), key=lambda r: r[axis])


def figures(plot, entry, results):
    """What the axes of a plot say, worked out from the entry."""
    y_title, x_title = (text["words"] for text in plot["texts"] if text["kind"] == "title")
    pixels = entry["width"] * entry["height"]
    axis = {"frames in a batch": "batch", "batches at the same time": "streams", "threads": "threads"}.get(x_title)
    x = {
        "frames per second": entry["fps"],
        "operations per byte": entry["flops_per_frame"] / entry["bytes_per_frame"],
        "frame, in pixels": pixels,
    }
    y = {
        "ms from submit to result": entry["latency_ms"]["p50"],
        "s from submit to result": entry["latency_ms"]["p50"] / 1000,
        "GFLOPS": entry["gflops"],
        "µs per pixel": 1e6 / entry["fps"] / pixels,
    }
    if axis:
        return entry[axis], entry["fps"] / first_of_line(entry, results, axis)["fps"]
    return x[x_title], y[y_title]


def test_every_mark_is_where_the_axes_say_its_figures_are(seen):
    checked = Counter()
    for (page, _), frame in seen.items():
        for plot in frame["plots"]:
            x, y = scale_of(plot, 0), scale_of(plot, 1)
            for mark in plot["marks"]:
                expected = figures(plot, result_of(mark, PAGES[page]), PAGES[page])
                assert (x(expected[0]), y(expected[1])) == pytest.approx((mark["x"], mark["y"]), abs=1.5), mark
                checked[re.split("[,:]", plot["name"])[0]] += 1
    everything = 2 * (len(GRID) + len(THREADS) + 1)
    assert (checked["Latency against throughput"], checked["Roofline"]) == (everything, everything)
    # In two windows, for three kinds: lines of three sizes, three batches, two streams (two networks), four threads.
    assert [checked[name] for name in ("Pixels", "Batch", "Streams", "Threads")] == [36, 36, 24, 24]


def test_dashed_lines_are_little_s_law_and_proportion(seen):
    (latency,) = (plot for plot in seen["one", 1200]["plots"] if plot["name"].startswith("Latency"))
    (left, top, right, bottom), fps = latency["lines"][0]["box"], PAGES["one"][0]["fps"]
    share = (scale_of(latency, 0)(fps) - left) / (right - left)
    assert top + share * (bottom - top) == pytest.approx(scale_of(latency, 1)(1 / fps), abs=1.5)
    (threads,) = (plot for plot in seen["threads", 1200]["plots"] if plot["name"].startswith("Threads"))
    (line,) = threads["lines"]
    x, y = scale_of(threads, 0), scale_of(threads, 1)
    assert line["box"] == pytest.approx([x(1), y(8), x(8), y(1)], abs=1.5)


def test_whiskers_end_at_the_99th_percentile_and_roofs_are_the_peaks(seen):
    plots = {plot["name"].split(",")[0]: plot for plot in seen["one", 1200]["plots"]}
    latency, roof = plots["Latency against throughput"], plots["Roofline"]
    (entry,) = PAGES["one"]
    _, whisker = latency["lines"]
    assert whisker["box"][1] == pytest.approx(scale_of(latency, 1)(entry["latency_ms"]["p99"] / 1000), abs=1.5)
    slope = next(line for line in roof["lines"] if "slope" in line["kind"])
    level = [line for line in roof["lines"] if "slope" not in line["kind"]]
    x, y = scale_of(roof, 0), scale_of(roof, 1)
    assert [middle(line["box"], 1) for line in level] == pytest.approx([y(g) for g in PEAKS.values()], abs=1.5)
    assert [line["box"][0] for line in level] == pytest.approx([x(g / 12.5) for g in PEAKS.values()], abs=1.5)
    assert slope["box"][1:3] == pytest.approx([y(680), x(680 / 12.5)], abs=1.5)


# --- without one ------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Elements, attributes and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.words += data


NASTY = """<script>alert(1)&amp;"'><img src=x onerror=alert(2)> ]]>-->.onnx"""


def test_names_stay_names(tmp_path):
    kind = ("openvino", "fp32")
    entries = [result("small_x4", kind, size, model=NASTY) for size in SIZES]
    machine = {"cpu": NASTY, NASTY: [NASTY, {NASTY: NASTY}]}
    page = Reader(page_of(tmp_path, entries, machine=machine, command=NASTY, timed=NASTY, energy=NASTY, date=NASTY))
    assert not {"script", "img"} & set(page.elements)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.words.count(NASTY) >= 7
    named = [value for name, value in page.attributes if name == "aria-label"]
    assert sum(NASTY.removesuffix(".onnx") in value for value in named) == 6  # three plots, each wide and narrow


def test_nothing_is_loaded_from_anywhere(tmp_path):
    page = Reader(text := page_of(tmp_path, GRID))
    assert not {"script", "link", "img", "iframe", "object", "use", "image"} & set(page.elements)
    assert not {"src", "href", "xlink:href", "srcset", "action"} & {name for name, _ in page.attributes}
    assert not re.search(r"url\(|@import|https?:|//", text)
    assert dict(page.attributes)["content"]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def tables(text):
    """Rows of cells, without marks, of each table."""

    def cells(row):
        return [re.sub("<[^>]*>|\n", "", cell) for cell in re.split("<t[dh](?:>| [^>]*>)", row)[1:]]

    found = re.findall("<table>(.*?)</table>", unescape(text), re.DOTALL)
    return [[cells(row) for row in table.split("<tr>")] for table in found]


def test_every_result_has_its_row_with_its_figures(tmp_path):
    _, heads, *lines = tables(page_of(tmp_path, GRID))[0]
    assert heads[:8] == ["backend", "size", "batch", "streams", "fps", "GFLOPS", "of peak", "p50ms"]
    file, found = "", {}
    for cells in lines:
        file = cells[0] if len(cells) == 1 else file
        found[(file, *cells[:4])] = dict(zip(heads[4:], cells[4:], strict=True)) if len(cells) > 1 else None
    assert sum(figures is not None for figures in found.values()) == len(GRID)
    for entry in GRID:
        settings = (f"{entry['width']}x{entry['height']}", str(entry["batch"]), str(entry["streams"]))
        shown = found[(entry["model"], f"{entry['backend']} {entry['precision']}", *settings)]
        assert float(shown["of peak"].rstrip("%")) == pytest.approx(100 * entry["share_of_peak"], abs=0.05)
        expected = {"fps": entry["fps"], "p99ms": entry["latency_ms"]["p99"], "spreadms": entry["spread_ms"]}
        for name, value in expected.items():
            assert float(shown[name].replace("\u202f", "")) == pytest.approx(value, rel=0.005)


def test_what_nobody_measured_has_no_column_and_what_varies_not_is_said_once(tmp_path):
    text = page_of(tmp_path, GRID)
    assert "energyJ/frame" not in tables(text)[0][1]
    assert "In all rows: 2 threads." in text
    measured = tables(page_of(tmp_path, [{**GRID[0], "joules_per_frame": 12.345}, GRID[1]]))[0]
    assert measured[1][-1] == "energyJ/frame"
    assert [cells[-1] for cells in measured[-2:]] == ["12.3", "\N{EN DASH}"]


def test_an_interrupted_benchmark_says_so(tmp_path):
    assert "interrupted" in page_of(tmp_path, GRID[:3], complete=False)
    assert "interrupted" not in page_of(tmp_path, GRID[:3])
    empty = page_of(tmp_path, [], complete=False, peaks=[], bandwidth_gb_s=None)
    assert "Nothing was measured" in empty
    assert "<table>" not in empty


def test_rows_without_arithmetic_are_counted_out_of_the_roofline(tmp_path):
    unknown = {"flops_per_frame": None, "gflops": None, "share_of_peak": None, "bytes_per_frame": None}
    entries = [GRID[0], {**GRID[1], **unknown}]
    assert "not shown: 1 of 2" in page_of(tmp_path, entries)
    assert "Roofline" not in page_of(tmp_path, entries[1:], bandwidth_gb_s=None)


def test_the_card_of_a_network_names_its_fastest(tmp_path):
    text = page_of(tmp_path, GRID)
    for network in NETWORKS:
        members = [entry for entry in GRID if entry["model"].startswith(network)]
        best = max(members, key=lambda entry: entry["fps"] * entry["width"] * entry["height"])
        card = re.search(rf'<div class="card"><h2>{network}</h2>.*?</div>', text, re.DOTALL)[0]
        assert f"{axes.number(best['fps'])} <small>fps at {best['width']}x{best['height']}</small>" in card
        assert f"{best['backend']} {best['precision']}, batch {best['batch']}" in card


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        write_page(tmp_path, content(GRID[:1]))


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_of_words_have_the_contrast_that_wcag_asks_for():
    assert (luminance("#ffffff") + 0.05) / (luminance("#767676") + 0.05) == pytest.approx(
        4.54, abs=0.01
    )  # W3C's example
    style = (resources.files("esrgan_bench.page") / "style.css").read_text()
    themes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        paper = luminance(colours["paper"])
        for name in ("ink", "quiet", *(f"c{i}" for i in range(8))):
            light, dark = sorted((paper, luminance(colours[name])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, name
