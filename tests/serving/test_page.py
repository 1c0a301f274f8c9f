"""The page of `keras-resnext serve` in a real browser: images dropped, pasted and chosen, by mouse and keyboard."""

import base64
import io
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import ResNeXt
from tests.serving.material import encode
from tests.serving.server_process import Server
from tests.support import randomise

pytest.importorskip("tensorflow")
pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
expect.set_options(timeout=30_000)  # the first Grad-CAM waits for the server to load Keras
if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs the TensorFlow backend", allow_module_level=True)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if BROWSER is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
SIZE = 64
HOSTILE = "<img src=x onerror=\"document.title='broken into'\">"
LABELS = [HOSTILE, "cat", "dog", "a & b", "é", "last"]
KEY = "secret-key"
# Models of other kinds: what they end in, their scores before it, and their labels.
OTHERS = {
    "several": ("sigmoid", [2.0, -3, 1], ["cat", "dog", "sofa"]),
    "two": ("sigmoid", [-1.0], ["ripe"]),
    "value": (None, [37.5], None),
}
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}


def photograph(name: str) -> bytes:
    from skimage import data

    return encode(Image.fromarray(getattr(data, name)()), "JPEG")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from keras_resnext.export import export_saved_model

    path = tmp_path_factory.mktemp("base")
    options = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4, base_channels=8, stem_channels=8, name="net")
    model = randomise(ResNeXt(**options, classes=len(LABELS), input_shape=(SIZE, SIZE, 3)))
    first = export_saved_model(model, path / "net", labels=LABELS, keras_file=True)
    shutil.copytree(first, path / "plain" / "3", ignore=shutil.ignore_patterns("model.keras"))
    for name, (activation, biases, labels) in OTHERS.items():
        export_saved_model(biased(name, activation, biases), path / name, labels=labels, keras_file=True, warmup=False)
    return path


def biased(name, activation, biases):
    """Its scores hardly depend on the image."""
    layers = keras.layers
    stack = [layers.Rescaling(1 / 255), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()]
    head = layers.Dense(len(biases), activation, kernel_initializer=keras.initializers.RandomNormal(0, 1e-6))
    model = keras.Sequential([keras.Input((32, 32, 3)), *stack, head], name=name)
    head.bias.assign(biases)
    return model


@pytest.fixture(scope="module")
def server(base):
    running = Server(base, poll=0.2)
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.fixture(scope="module")
def locked(base):
    running = Server(base, api_key=KEY)
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a server's page; whatever it asks of others, and every error in it, fails the test."""
    contexts, problems, allowed = [], [], []

    def open_(server, viewport=DESK, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: _check_address(request.url, server.address, problems))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: _check_console(message, allowed, problems))
        page.goto(server.address)
        return page

    open_.allowed = allowed  # statuses that a test provokes
    yield open_
    for context in contexts:
        context.close()
    assert not problems


def _check_address(url, own, problems):
    if not url.startswith((own + "/", "blob:" + own, "data:image/png")):
        problems.append(f"asked {url}")


def _check_console(message, allowed, problems):
    if message.type == "error" and not any(f"status of {status}" in message.text for status in allowed):
        problems.append(message.text)


def drop(page, files):
    """Files as (name, type, bytes), dropped onto the page as from a folder."""
    rows = [[name, kind, base64.b64encode(data).decode()] for name, kind, data in files]
    transfer = page.evaluate_handle(
        """(rows) => {
            const transfer = new DataTransfer();
            for (const [name, type, text] of rows) {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], name, {type}));
            }
            return transfer;
        }""",
        rows,
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": transfer})


def predicted(server, data, name="net"):
    body = {"signature_name": "serving_bytes", "instances": [{"b64": base64.b64encode(data).decode()}]}
    return server.ask(f"/v1/models/{name}:predict", body)[1]["predictions"][0]


def pixels(page):
    """The overlay's canvas, as an array."""
    data = page.evaluate("document.querySelector('#overlay').toDataURL()").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)


def test_a_dropped_photograph_is_classified_and_explained(server, open_page):
    page = open_page(server)
    data = photograph("chelsea")
    drop(page, [("cat.jpg", "image/jpeg", data)])
    expect(page.locator("#bars li")).to_have_count(5)
    answer = predicted(server, data)
    assert page.locator("#bars .bar-name").all_inner_texts() == answer["top_labels"], (
        "names are text, whatever they hold"
    )
    shown = [float(text.split()[-2]) / 100 for text in page.locator("#bars .bar-score").all_inner_texts()]
    np.testing.assert_allclose(shown, answer["top_scores"], atol=6e-4)
    assert page.title() == "Try a model"
    expect(page.get_by_role("status").first).to_contain_text("cat.jpg")
    assert re.fullmatch(r"[\d.]+ ms", page.locator("#server-time").inner_text())
    assert re.fullmatch(r"[\d.]+ ms", page.locator("#trip-time").inner_text())

    page.get_by_label("Show Grad-CAM").check()
    expect(page.locator("#overlay")).to_be_visible()
    expect(page.locator("#heat-text")).to_contain_text("layer4_0_relu, 2 × 2 places")
    first = pixels(page)
    page.get_by_label("Layer").select_option("layer1_0_relu")
    expect(page.locator("#heat-text")).to_contain_text("layer1_0_relu, 16 × 16 places")
    assert (pixels(page) != first).any()
    page.get_by_role("list", name="Best classes").get_by_role("button").nth(2).click()
    expect(page.locator("#heat-text")).to_contain_text(f"What speaks for {answer['top_labels'][2]}")
    before = pixels(page)
    page.get_by_label("Opacity").fill("0")
    seen = np.asarray(pixels(page))
    assert (seen != before).any()
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 100, "without heat the image itself is there"
    page.get_by_label("Show Grad-CAM").uncheck()
    expect(page.locator("#image")).to_be_visible()


def test_a_broken_file_is_told_and_the_rest_goes_on(server, open_page):
    open_page.allowed.append(400)
    page = open_page(server)
    data = photograph("coffee")
    drop(page, [("broken.jpg", "image/jpeg", data[:2000]), ("coffee.jpg", "image/jpeg", data)])
    expect(page.locator("#error")).to_contain_text("expected images that are whole")
    expect(page.locator("#strip li.failed")).to_have_count(1)
    expect(page.locator("#batch-text")).to_contain_text("2 images in")
    expect(page.locator("#batch-text")).to_contain_text("1 failed")
    page.locator("#strip button").nth(1).click()
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#best")).to_have_text(predicted(server, data)["top_labels"][0])
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#stage")).to_be_hidden()
    drop(page, [("notes.txt", "text/plain", b"no image")])
    expect(page.locator("#error")).to_contain_text("not a JPEG, PNG, GIF or BMP (it begins with b'no image')")


def test_by_keyboard_alone(server, open_page, tmp_path):
    page = open_page(server)
    expect(page.locator("#model")).to_have_value("net")
    file = tmp_path / "rocket.jpg"
    file.write_bytes(photograph("rocket"))
    focused = []
    for _ in range(3):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id"))
    assert focused == ["model", "version", "files"]
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(file)
    expect(page.locator("#bars li")).to_have_count(5)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the second class
    expect(page.locator("#overlay")).to_be_visible()
    expect(page.locator("#bars button").nth(1)).to_have_attribute("aria-pressed", "true")
    page.locator("#opacity").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#opacity-value")).to_have_text("74 %")


def test_every_control_has_a_name(server, open_page):
    page = open_page(server)
    drop(page, [("a.jpg", "image/jpeg", photograph("camera")), ("b.jpg", "image/jpeg", photograph("coins"))])
    expect(page.locator("#strip .done")).to_have_count(2)
    page.get_by_label("Show Grad-CAM").check()
    expect(page.locator("#overlay")).to_be_visible()
    tree = page.locator("body").aria_snapshot()
    for role, name in (
        ("combobox", "Model"), ("combobox", "Version"), ("button", "Choose images|Add images"), ("button", "Clear"),
        ("checkbox", "Show Grad-CAM"), ("combobox", "Layer"), ("combobox", "Method"), ("slider", "Opacity"),
        ("list", "Best classes"), ("heading", "All images"),
    ):  # fmt: skip
        assert re.search(rf'{role} "({name})', tree), (role, name, tree)
    assert not re.search(r"^\s*- (button|combobox|slider|checkbox|img)\s*(\[|:|$)", tree, re.MULTILINE), tree


def test_pasted_images_and_formats_that_the_browser_knows(server, open_page):
    page = open_page(server)
    webp = encode(Image.fromarray(np.full((40, 60, 3), 90, np.uint8)), "WEBP")
    page.evaluate(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([bytes], "pasted.webp", {type: "image/webp"}));
            dispatchEvent(new ClipboardEvent("paste", {clipboardData}));
        }""",
        base64.b64encode(webp).decode(),
    )
    expect(page.locator("#bars li")).to_have_count(5)
    expect(page.locator("#caption")).to_have_text("pasted.webp")


def test_models_and_versions(server, base, open_page):
    page = open_page(server)
    drop(page, [("cat.jpg", "image/jpeg", photograph("chelsea"))])
    expect(page.locator("#answered")).to_have_text("1")
    page.get_by_label("Model").select_option("plain")
    expect(page.locator("#answered")).to_have_text("3")
    expect(page.locator("#heat-text")).to_contain_text("Not for this version")
    expect(page.get_by_label("Show Grad-CAM")).to_be_disabled()
    page.get_by_label("Model").select_option("net")
    expect(page.get_by_label("Show Grad-CAM")).to_be_enabled()
    shutil.copytree(base / "net" / "1", base / "net" / ".new")
    (base / "net" / ".new").rename(base / "net" / "2")
    expect(page.get_by_label("Version")).to_contain_text("newest (2)")
    assert page.locator("#version option").all_inner_texts() == ["newest (2)", "2"]


@pytest.mark.parametrize(
    ("name", "best", "rows", "note", "explained"),
    [
        ("several", "cat, sofa", ["88.1 %", "73.1 %", "4.7 %"], "need not sum to 100 %", "cat, 88.1 %"),
        ("two", "not ripe", ["26.9 %"], "The probability of this class", "ripe, 26.9 %"),
        ("value", "37.5", ["37.5"], "not probabilities", "0, 37.5"),
    ],
)
def test_scores_are_shown_as_what_they_are(name, best, rows, note, explained, server, open_page):
    page = open_page(server)
    page.get_by_label("Model").select_option(name)
    drop(page, [("cat.jpg", "image/jpeg", photograph("chelsea"))])
    expect(page.locator("#best")).to_have_text(re.compile(rf"^{best}"))
    shown = page.locator("#bars .bar-score").all_inner_texts()
    assert [re.sub(r"(\d+\.\d)\d*", r"\1", text) for text in shown] == rows
    expect(page.locator("#kind")).to_contain_text(note)
    expect(page.get_by_role("status").first).to_contain_text(f"cat.jpg: {best}")
    page.get_by_label("Show Grad-CAM").check()
    expect(page.locator("#heat-text")).to_contain_text(f"What speaks for {explained}")
    expect(page.locator("#bars button").first).to_have_attribute("aria-pressed", "true")
    assert page.locator("#bars .bar-track").first.is_visible() == (name != "value")


def test_on_a_phone_in_the_dark(server, open_page):
    page = open_page(server, PHONE, color_scheme="dark", has_touch=True, is_mobile=True)
    drop(page, [(f"{i}.jpg", "image/jpeg", photograph("coffee")) for i in range(4)])
    expect(page.locator("#strip .done")).to_have_count(4)
    page.get_by_label("Show Grad-CAM").tap()
    expect(page.locator("#overlay")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out sideways"
    colours = [page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")]
    bright, dark = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert bright > 600
    assert dark < 120


def test_the_key_is_asked_for(locked, open_page):
    open_page.allowed.append(401)
    page = open_page(locked)
    expect(page.get_by_role("dialog", name="API key")).to_be_visible()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-error")).to_have_text("That is not the key.")
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_value("net")
    drop(page, [("cat.jpg", "image/jpeg", photograph("chelsea"))])
    expect(page.locator("#bars li")).to_have_count(5)


def test_the_page_asks_nothing_of_others_and_says_so(server):
    status, text, headers = server.ask("/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    files = [*(Path(__file__).parents[2] / "keras_resnext/serving/server/page").iterdir()]
    for file in files:
        source = file.read_text(encoding="utf-8")
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s\"']+|innerHTML|\son\w+=|\sstyle=", source), file
        if file.suffix in (".css", ".js", ".svg"):
            assert file.name in text + "".join(f.read_text() for f in files if f.suffix == ".js")
