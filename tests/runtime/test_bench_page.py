"""The HTML page of a benchmark: made-up figures are found again in its plots, its table and its cards."""

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import pytest

pytest.importorskip("matplotlib", reason="the page is drawn with the 'bench' extra")

from esrgan_bench import cli, page
from esrgan_bench.plots import LATENCY, LOOKS, SHARE, draw, draw_network, kinds_of, to_svg
from esrgan_deploy.errors import OutputError
from made_up_figures import GRID, NETWORKS, PEAKS, SIZES, THREADS, content, page_of, result

BIG = [entry for entry in GRID if entry["model"].startswith("big")]
ONE_SIZE = [result("big_x4_a0.80", kind, (640, 360)) for kind in PEAKS]

# --- plots: what matplotlib was told to draw --------------------------------------------------------------------------


def lines_of(figure):
    """{(kind, label of the tick): y} of all marks."""
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    return {
        (line.get_label(), names[round(x)]): y for line in axes.lines for x, y in zip(*line.get_data(), strict=True)
    }


def bars_of(figure):
    """{kind: length} of all bars."""
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    return {name: bar.get_width() for name, bar in zip(names, axes.patches, strict=True)}


def test_lines_are_the_best_that_was_measured_at_each_size():
    (throughput, latency, share), *_ = draw_network(BIG, kinds_of(BIG))
    expected = {}
    for kind in PEAKS:
        for width, height in SIZES:
            some = [r for r in BIG if (r["backend"], r["precision"], r["width"]) == (*kind, width)]
            assert len(some) == 6
            expected[" ".join(kind), f"{width}x{height}"] = (
                max(r["fps"] for r in some) * width * height / 1e6,
                min(r["latency_ms"]["p50"] for r in some) / 1e3,
                max(r["share_of_peak"] for r in some),
            )
    for index, figure in enumerate((throughput, latency, share)):
        assert lines_of(figure) == {key: values[index] for key, values in expected.items()}


def test_each_option_that_was_varied_has_its_plots_for_the_smallest_frame():
    rows = draw_network(BIG, kinds_of(BIG))
    labels = [[figure.axes[0].get_xlabel() for figure in row] for row in rows]
    assert labels == [["frame"] * 3, ["frames in a batch"] * 2, ["batches at a time"] * 2]
    for batch in (1, 2, 4):
        some = [r for r in BIG if (r["backend"], r["width"], r["batch"]) == ("ort", 128, batch)]
        assert lines_of(rows[1][0])["ort fp32", str(batch)] == max(r["fps"] for r in some)
        assert lines_of(rows[1][1])["ort fp32", str(batch)] == min(r["latency_ms"]["p50"] for r in some) / 1e3
    _, (throughput, _) = draw_network(THREADS, kinds_of(THREADS))
    assert lines_of(throughput)["openvino int8", "8"] == THREADS[7]["fps"]


def test_whiskers_of_latency_end_at_the_99th_percentile():
    kinds = kinds_of(ONE_SIZE)
    (axes,) = draw(THREADS, LATENCY, "threads", kinds).axes
    tops = [segment[1][1] for collection in axes.collections for segment in collection.get_segments()]
    assert tops == pytest.approx([r["latency_ms"]["p99"] / 1e3 for r in THREADS])
    (axes,) = draw(ONE_SIZE, LATENCY, "size", kinds).axes
    rights = [collection.get_segments()[0][1][0] for collection in axes.collections]
    assert rights == pytest.approx([r["latency_ms"]["p99"] / 1e3 for r in ONE_SIZE])


def test_one_size_is_drawn_as_bars_with_their_figures():
    ((throughput, latency, share),) = draw_network(ONE_SIZE, kinds_of(ONE_SIZE))
    kinds = [" ".join(kind) for kind in PEAKS]
    assert bars_of(throughput) == {kind: r["fps"] for kind, r in zip(kinds, ONE_SIZE, strict=True)}
    assert bars_of(latency) == {kind: r["latency_ms"]["p50"] / 1e3 for kind, r in zip(kinds, ONE_SIZE, strict=True)}
    assert bars_of(share) == {kind: r["share_of_peak"] for kind, r in zip(kinds, ONE_SIZE, strict=True)}
    assert throughput.axes[0].get_xlabel() == "frame 640x360"
    written = re.findall(">([^<]*) s<", to_svg(latency, ""))
    assert [float(text) for text in written] == pytest.approx(
        [r["latency_ms"]["p50"] / 1e3 for r in ONE_SIZE], rel=0.005
    )


def test_what_is_not_known_is_not_drawn():
    unknown = [{**entry, "share_of_peak": None} for entry in ONE_SIZE]
    assert [len(row) for row in draw_network(unknown, kinds_of(unknown))] == [2]
    assert set(bars_of(draw([*unknown[:2], ONE_SIZE[2]], SHARE, "size", kinds_of(unknown)))) == {"ort fp32"}


def test_a_kind_has_the_same_colour_in_all_plots():
    kinds = kinds_of(GRID)
    ort_only = [r for r in ONE_SIZE if r["backend"] == "ort"]
    (line,) = [li for li in draw(THREADS, LATENCY, "threads", kinds).axes[0].lines if li.get_label() == "ort fp32"]
    (bar,) = draw(ort_only, SHARE, "size", kinds).axes[0].patches
    assert LOOKS[kinds.index(("ort", "fp32"))] == (line.get_color(), line.get_marker())
    assert "#{:02x}{:02x}{:02x}".format(*(round(255 * c) for c in bar.get_facecolor()[:3])) == line.get_color()


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_the_contrast_that_wcag_asks_for():
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)  # W3C's example
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", rule)) for rule in re.findall(r":root \{(.*?)\}", page.STYLE)]
    assert len(themes) == 2
    for theme in themes:
        assert min(contrast(theme["page"], theme[name]) for name in ("ink", "quiet")) >= 4.5
        assert min(contrast(theme["page"], colour) for colour, _ in LOOKS) >= 3


# --- the page as text -------------------------------------------------------------------------------------------------


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


NASTY = """<script>alert(1)&amp;"'><img src=x onerror=alert(2)> ]]>-->$\\frac{$_.onnx"""


def test_names_stay_names(tmp_path):
    entries = [result("small_x4", ("openvino", "fp32"), size, model=NASTY, backend=NASTY) for size in SIZES]
    machine = {"cpu": NASTY, NASTY: [NASTY, {NASTY: NASTY}]}
    text = page_of(tmp_path, entries, machine=machine, command=NASTY, timed=NASTY, energy=NASTY, date=NASTY)
    seen = Reader(text)
    assert not {"script", "img"} & set(seen.elements)
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert seen.words.count(NASTY) >= 15
    named = [value for name, value in seen.attributes if name == "aria-label"]
    assert [NASTY.removesuffix(".onnx") in value for value in named] == [True] * 3


@pytest.fixture(scope="module")
def grid_page(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("grid"), GRID)


def test_nothing_is_loaded_from_anywhere(grid_page):
    seen = Reader(text := grid_page)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(seen.elements)
    assert all(value.startswith("#") for name, value in seen.attributes if name in ("href", "xlink:href"))
    assert not {"src", "srcset", "action"} & {name for name, _ in seen.attributes}
    assert not re.search(r"url\((?!#)|@import", text)
    assert not re.search(r"https?:|//", re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/[^"]*"', "", text))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in seen.attributes


def test_the_same_figures_make_the_same_page_in_every_process(tmp_path, grid_page):
    program = "from made_up_figures import GRID, Path, page_of; page_of(Path(sys.argv[1]), GRID)"
    command = [sys.executable, "-W", "error", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {program}", tmp_path]
    subprocess.run(command, check=True)
    assert (tmp_path / "page.html").read_text() == grid_page


def test_what_has_the_same_id_in_two_plots_is_the_same(grid_page):
    found = {(name, body) for _, name, body in re.findall(r'<(\w+) id="([^"]*)"(.*?)</\1>', grid_page, re.DOTALL)}
    found |= set(re.findall(r'id="([^"]*)"([^>]*)/>', grid_page))
    assert len(found) > 5
    assert len(found) == len({name for name, _ in found})


def table_of(text):
    """Rows of cells, without marks."""
    (found,) = re.findall("<table>(.*?)</table>", unescape(text), re.DOTALL)
    rows = [re.split("<t[dh]>", row)[1:] for row in re.split("<tr[^>]*>", found)[1:]]
    return [[re.sub("<[^>]*>|\n", "", cell) for cell in row] for row in rows]


def test_every_result_has_its_row_with_its_figures(tmp_path, grid_page):
    heads, *rows = table_of(grid_page)
    for entry, cells in zip(GRID, rows, strict=True):
        shown = dict(zip(heads, cells, strict=True))
        assert shown["size"] == f"{entry['width']}x{entry['height']}"
        for name, key in (("model", "model"), ("backend", "backend"), ("type", "precision"), ("batch", "batch")):
            assert shown[name] == str(entry[key])
        figures = {"p50 ms": entry["latency_ms"]["p50"], "p99 ms": entry["latency_ms"]["p99"], "fps": entry["fps"]}
        figures |= {"GFLOPS": entry["gflops"], "RSS MiB": 700, "at most": 1234, "+-ms": entry["spread_ms"]}
        for name, value in figures.items():
            assert float(shown[name]) == pytest.approx(value, rel=0.005, abs=0.05), name
        assert float(shown["of peak"].rstrip("%")) == pytest.approx(100 * entry["share_of_peak"], abs=0.05)
    assert "J/frame" not in heads
    heads, first, second = table_of(page_of(tmp_path, [{**GRID[0], "joules_per_frame": 12.345}, GRID[1]]))
    assert (heads[-1], first[-1], second[-1]) == ("J/frame", "12.3", "-")


def test_the_card_of_a_network_and_the_bold_row_are_its_fastest(grid_page):
    text = grid_page
    for network in NETWORKS:
        members = [entry for entry in GRID if entry["model"].startswith(network)]
        best = max(members, key=lambda entry: entry["fps"] * entry["width"] * entry["height"])
        card = re.search(rf'<div class="card"><b>{network}</b>.*?</div>', text, re.DOTALL)[0]
        assert f"{best['fps']:.3g} <small>fps at {best['width']}x{best['height']}</small>" in card
        assert f"{best['backend']} in {best['precision']}, batch {best['batch']}, streams {best['streams']}" in card
        assert f'<tr class="best"><td>{best["model"]}<td>{best["backend"]}' in text
    assert text.count('class="best"') == len(NETWORKS)


@pytest.mark.parametrize(
    ("file", "network"),
    [
        ("esrgan_x4_a0.80_fp16.onnx", "esrgan_x4_a0.80"),
        ("compact_x2_bf16_640x360_batch.onnx", "compact_x2_640x360_batch"),
        ("net_fp3200.onnx", "net_fp3200"),
        ("plain", "plain"),
    ],
)
def test_a_network_keeps_its_name_in_every_precision(tmp_path, file, network):
    assert f"<h2>{network}</h2>" in page_of(tmp_path, [{**GRID[0], "model": file}])


def test_an_interrupted_benchmark_says_so(tmp_path):
    assert "interrupted" in page_of(tmp_path, GRID[:3], complete=False)
    assert "interrupted" not in page_of(tmp_path, GRID[:3])
    empty = page_of(tmp_path, [], complete=False, peaks=[], bandwidth_gb_s=None)
    assert "Nothing was measured" in empty
    assert "<table>" not in empty


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        page.write_page(tmp_path, content(GRID[:1]))


# --- without the extra ------------------------------------------------------------------------------------------------


def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(blur_x2, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["-m", str(blur_x2), "-b", "reference", "--html", str(tmp_path / "page.html")]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pip install 'esrgan-deploy[bench]'" in captured.err
    assert captured.err.count("\n") == 1


def test_without_the_extra_all_else_works(blur_x2, tmp_path):
    program = """
import sys
sys.modules |= {"matplotlib": None, "pynvml": None}
from esrgan_bench import cli, measure
measure.copy_bandwidth_gb_s = lambda: 1.0
sys.exit(cli.main(sys.argv[1:]))
"""
    arguments = ["-m", str(blur_x2), "-b", "reference", "--shapes", "8x8", "--seconds", "0"]
    files = ["--json", tmp_path / "f.json", "--markdown", tmp_path / "f.md"]
    done = subprocess.run([sys.executable, "-c", program, *arguments, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert blur_x2.name in done.stdout
    assert blur_x2.name in (tmp_path / "f.json").read_text()


# --- in a browser -----------------------------------------------------------------------------------------------------

MEASURE = """
const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
const frame = ([html, width, scheme]) => new Promise(done => {
  const f = document.createElement("iframe");
  f.style = `width: ${width}px; height: 800px; border: 0; color-scheme: ${scheme}`;
  f.srcdoc = html;
  f.onload = () => {
    const root = f.contentDocument.documentElement, style = getComputedStyle(f.contentDocument.body);
    const plots = [...root.querySelectorAll("svg")].map(svg => ({
      box: box(svg), ink: getComputedStyle(svg.querySelector("text")).fill,
      texts: [...svg.querySelectorAll("text")].map(t => ({words: t.textContent, box: box(t)})),
    }));
    done({overflow: root.scrollWidth - root.clientWidth, page: style.backgroundColor, ink: style.color, plots});
  };
  document.body.append(f);
});
Promise.all(FRAMES.map(frame)).then(found => { document.body.textContent = JSON.stringify(found); });
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory, grid_page):
    """What Chromium shows of three pages, on phones and desktops, in light and dark."""
    if not shutil.which("chromium"):
        pytest.skip("needs chromium")
    folder = tmp_path_factory.mktemp("pages")
    threads, one = (page_of(folder, results) for results in (THREADS, ONE_SIZE[:1]))
    frames = [(grid_page, 390, "light"), (grid_page, 1200, "light"), (threads, 390, "dark"), (one, 320, "dark")]
    script = f"const FRAMES = {json.dumps(frames)};".replace("</", "<\\/") + MEASURE
    (folder / "driver.html").write_text(f'<!DOCTYPE html><meta charset="utf-8"><body><script>{script}</script>')
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
    options += ("--disable-background-networking", "--enable-logging=stderr", f"--user-data-dir={folder}/user")
    command = ["chromium", *options, "--virtual-time-budget=5000", "--dump-dom", str(folder / "driver.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(unescape(re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)[1]))


def test_pages_fit_their_windows_and_follow_light_and_dark(seen):
    assert [frame["overflow"] for frame in seen] == [0] * 4
    assert [frame["page"] for frame in seen] == ["rgb(255, 255, 255)"] * 2 + ["rgb(20, 23, 26)"] * 2
    assert all(plot["ink"] == frame["ink"] for frame in seen for plot in frame["plots"])


def test_words_of_a_plot_neither_touch_nor_leave_it(seen):
    plots = [plot for frame in seen for plot in frame["plots"]]
    assert len(plots) == 2 * 14 + 5 + 3
    for plot in plots:
        for index, text in enumerate(plot["texts"]):
            inside = [sign * (text["box"][i] - plot["box"][i]) for i, sign in enumerate((1, 1, -1, -1))]
            assert min(inside) > -2, text
            for other in plot["texts"][:index]:
                overlap = [
                    min(text["box"][i + 2], other["box"][i + 2]) - max(text["box"][i], other["box"][i]) for i in (0, 1)
                ]
                assert min(overlap) < 2, (text, other)  # line boxes are a little higher than letters
