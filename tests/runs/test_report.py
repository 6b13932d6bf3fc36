"""Reports: what they say of every kind of run, and that nothing in a run can change the page."""

import base64
import html.parser
import io
import re

import keras
import numpy as np
import pytest
from networks import sequential
from PIL import Image
from pretended import Inputs, Moved, PretendedRun
from rotation import rotating

from xcertify import attributions
from xcertify.runs.proved import HEADLINES, Rows
from xcertify.runs.report import write_report

L = keras.layers
HOSTILE = "<script>alert(1)</script><img src=x onerror=y>\u202e\x07\"'&{{7*7}} $x$ 漢"
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((3, 4, 4, 1)).astype(np.float32)
ROWS = RANDOM.random((3, 5)).astype(np.float32)
SERIES = RANDOM.random((3, 6, 2)).astype(np.float32)


def of_images():
    return sequential((4, 4, 1), L.Conv2D(2, 2, activation="relu"), L.Flatten(), L.Dense(3))


def of_rows():
    return sequential((5,), L.Dense(4, "relu"), L.Dense(3))


def of_series():
    return sequential((6, 2), L.Flatten(), L.Dense(3, "relu"), L.Dense(2))


KINDS = {
    "OverlapCertificate": ("EVA", of_images, IMAGES, {"epsilon": 0.02, "attack": True}),
    "TopKCertificate": (
        "CORGI",
        of_images,
        IMAGES,
        {"k": 2, "form": "map", "method": "crown-ibp", "attack": None, "tolerance": 1.0},
    ),
    "GradientCertificate": ("CertifiedGradient", of_rows, ROWS, {"epsilon": 0.01}),
    "DeviationCertificate": ("AttributionBound", of_rows, ROWS, {"beta": 10.0}),
    "MaskCertificate": ("RelEx", of_series, SERIES, {"nb_samples": 2, "steps": 2}),
    "ReasonCertificate": ("SufficientReason", of_rows, ROWS, {"epsilon": 0.05}),
    "SmoothedCertificate": ("SmoothedAttribution", of_images, IMAGES, {"of": "Saliency"}),
    "CosineCertificate": ("UniformlySmoothedAttribution", of_rows, ROWS, {"of": "GradientInput"}),
}

DRAWN = [[*KINDS][number] for number in rotating(len(KINDS), 2)]  # others every day


class Page(html.parser.HTMLParser):
    """The tags of a page, checked for balance, its text, and where its links lead."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.words = [], [], [], []
        self.feed(text)
        assert not self.open
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def page_of(run, tmp_path):
    path = tmp_path / "report.html"
    write_report(run, path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    for link in page.links:
        assert link.startswith("#") or re.match(r"data:image/(png|svg\+xml);base64,", link)
        if "png" in link[:20]:
            picture = Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2])))
            assert min(picture.size) > 50
    assert "url(" not in text and "@import" not in text
    return page


def test_every_kind_of_certificate_has_a_case():
    assert set(KINDS) | {"RadiusCertificate"} == set(HEADLINES)


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore::xcertify.VacuousWarning")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in DRAWN else pytest.mark.slow) for kind in KINDS]
)
def test_certificates_of_every_kind(kind, tmp_path):
    name, build, inputs, settings = KINDS[kind]
    explainer = getattr(attributions, name).of_model(build(), **settings)
    run = PretendedRun(explainer, Inputs(inputs), {1: "has the value nan"}, **settings)
    page = page_of(run, tmp_path)
    assert f"{name}: 3 inputs certified" in page.text
    assert HEADLINES[kind].proved in page.text
    assert "has the value nan" in page.text
    assert kind in page.text
    of_bounds = "No point of the region leaves the bounds" in page.text
    assert of_bounds != HEADLINES[kind].sampled
    assert "xcertify recheck runs/a --model model.keras" in page.text
    assert "a" * 64 in page.text and "b" * 64 in page.text
    assert page.tags.count("img") >= 2  # of the two inputs without an error


def test_runs_without_certificates(tmp_path):
    run = PretendedRun(attributions.Saliency(of_series()), Inputs(SERIES), command="explain")
    page = page_of(run, tmp_path)
    assert "Nothing is proved of these maps" in page.text and page.tags.count("img") == 3
    assert "xcertify recheck" not in page.text


def test_runs_in_which_all_rows_are_errors(tmp_path):
    errors = dict.fromkeys(range(3), "is black")
    run = PretendedRun(attributions.EVA(of_rows()), Inputs(ROWS), errors)
    page = page_of(run, tmp_path)
    assert "no input has a certificate" in page.text and page.text.count("is black") == 3


def test_runs_that_have_not_begun(tmp_path):
    run = PretendedRun.of_numbers(Inputs(ROWS), certified=np.zeros(0))
    run.missing, run.settings["source"]["nb_inputs"] = [(0, 3)], 3
    page = page_of(run, tmp_path)
    assert "The run is not complete: 0 of 3 inputs are done" in page.text.replace(" :", ":")


def test_data_that_has_moved(tmp_path):
    run = PretendedRun(attributions.Saliency(of_rows()), Inputs(ROWS), command="explain")
    run._source = Moved()
    assert page_of(run, tmp_path).tags.count("img") == 3


def test_what_is_hostile_is_text(tmp_path):
    source = Inputs(ROWS, [f"{HOSTILE}{n}" for n in range(3)], [HOSTILE] * 5)
    explainer = attributions.Saliency(of_rows())
    run = PretendedRun(explainer, source, {0: f"cannot read {HOSTILE}"}, command="explain")
    run.settings |= {"model": HOSTILE, "settings": {HOSTILE: [HOSTILE, "\udcff"]}}
    run.settings["source"]["path"] = f"\udcff{HOSTILE}"
    run.settings["warnings"] = [{"message": HOSTILE}]
    page = page_of(run, tmp_path)
    assert page.text.count("<script>alert(1)</script>") > 5
    assert "{{7*7}}" in page.text and "49" not in page.text
    assert not re.search("[\u202a-\u202e\x00-\x08]", page.text)
    assert r"\u202e" in page.text


def test_the_command_is_quoted(tmp_path):
    run = PretendedRun.of_numbers(Inputs(ROWS), certified=[0.0])
    run.settings |= {"model": "my model; rm -rf ~.keras", "custom": ["layers:Mine"]}
    page = page_of(run, tmp_path)
    assert "--model 'my model; rm -rf ~.keras' --custom layers:Mine" in page.text


def test_settings_in_which_something_is_missing(tmp_path):
    run = PretendedRun.of_numbers(Inputs(ROWS), certified=[0.0])
    del run.settings["versions"]
    with pytest.raises(ValueError, match="nothing of versions"):
        write_report(run, tmp_path / "report.html")


def test_nothing_is_guaranteed_of_maps_alone(tmp_path):
    run = PretendedRun(
        attributions.EVA(of_images(), epsilon=0.1), Inputs(IMAGES), command="explain"
    )
    text = page_of(run, tmp_path).text
    assert "these are maps without proofs" in text and "no point of the region" not in text


def test_numbers_by_hand(tmp_path):
    certificate = attributions.EVA(of_rows()).certify(ROWS[:1])
    run = PretendedRun.of_numbers(
        Inputs(np.zeros((5, 5))),
        certified=[-1.0, -2.0, 3.0, 4.0, None],
        attacked=[-3.0, -4.0, 1.0, 2.5, None],
        robust=[True, True, False, False, None],
        vacuous=[False, False, False, True, None],
        target=[0, 1, 1, 1, None],
        seconds=[60.0] * 5,
        error=[None] * 4 + ["cut off"],
    )
    run._certificate = certificate
    page = page_of(run, tmp_path)
    assert "2 of 4 inputs (50.0 %)" in page.text.replace(" )", ")").replace("( ", "(")
    assert "Of 1 (25.0 %) what is proved says nothing useful" in page.text
    for row in (
        "least \N{MINUS SIGN}2 \N{MINUS SIGN}4",
        "median 3 1",
        "largest 4 2.5",
        "0 1 100.0 % \N{MINUS SIGN}1 \N{MINUS SIGN}3",
        "1 3 33.3 % 3 1",
        "5 min",
    ):
        assert row in page.text


def test_many_rows_are_read_without_their_maps(tmp_path):
    values = np.linspace(-1, 1, 20_000)
    run = PretendedRun.of_numbers(
        Inputs(np.zeros((20_000, 2, 2, 1))), certified=values, robust=values < 0
    )
    run._certificate = attributions.EVA(of_rows()).certify(ROWS[:1])
    page = page_of(run, tmp_path)
    assert "10,000 of 20,000 inputs" in page.text
    assert len(run._maps) == 12 and page.tags.count("img") == 13
    assert (tmp_path / "report.html").stat().st_size < 500_000


@pytest.mark.parametrize(
    ("kind", "certified", "proved"),
    [
        ("RadiusCertificate", [0.0, 0.2, np.nan], [False, True, False]),
        ("GradientCertificate", [0.5, 1.5, np.nan], [True, False, False]),
        ("DeviationCertificate", [0.5, np.inf, np.nan], [True, False, False]),
        ("ReasonCertificate", [3.0, 4.0, np.nan], [True, False, False]),
    ],
)
def test_what_counts_as_proved(kind, certified, proved):
    run = PretendedRun.of_numbers(
        None,
        certified=certified,
        vacuous=[False, True, None],
        error=[None, None, "bad"],
    )
    rows = Rows.of(run.table())
    headline = HEADLINES[kind]
    assert rows.proved(headline).tolist() == proved
    order = rows.better(headline)
    assert sorted(order) == [0, 1] and proved[order[0]]
