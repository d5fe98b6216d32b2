"""report.html and the comparison: well-formed, complete, self-contained, and everything escaped."""

import base64
import importlib
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from atlas_fast.errors import UserError
from atlas_fast.evaluation.compare import side_by_side

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = "<script>alert('x')</script>&\"quoted\""


class Page(HTMLParser):
    """Checks that tags are balanced; collects texts, attributes and ids."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.attributes, self.tags, self.ids = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check_self_contained(html):
    page = Page(html)
    assert page.tags.count("html") == 1 and "script" not in page.tags and "link" not in page.tags
    for key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith(("data:image/png;base64,", "#")), (key, value[:80])
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', html)
    assert references and set(references) <= set(page.ids)
    return page


@pytest.fixture(scope="module")
def evaluated(run_dir, tmp_path_factory):
    """The JSON file of an evaluation with everything that a page can show."""
    out = tmp_path_factory.mktemp("page") / "a.json"
    importlib.import_module("atlas_fast.evaluate").main(
        [str(run_dir), "--attacks", "fgsm", "pgd-3", "pgd-3-2@0.2", "--epsilon", "0.45", "--curves", "--device", "cpu",
         "--out", str(out)])
    return out


def test_the_page_has_everything_in_it(evaluated):
    report, html = json.loads(evaluated.read_text()), evaluated.with_suffix(".html").read_text()
    page = check_self_contained(html)
    text = " ".join(page.text)
    for name, result in report["attacks"].items():
        assert name in text and f"{100 * result['robust_accuracy']:.2f}%" in text
        assert f"step_size {result['settings']['step_size']:.4g}" in text
    assert "worst case" in text and f"{100 * report['worst_case']['robust_accuracy']:.2f}%" in text
    assert f"{100 * report['clean_accuracy']:.2f}%" in text and report["run"] in text
    assert f"{100 * report['clean_standard_error']:.2f}%" in text
    for heading in ("Signs of gradient masking", "Against eps, and against the number of steps",
                    "Distance to the decision boundary", "Adversaries"):
        assert heading in text
    assert page.tags.count("svg") == 3 and "prefers-color-scheme: dark" in html and "currentColor" in html
    assert len(report["curves"]["eps"]) >= 5 and report["distances"]["n"] > 0


def test_pictures_are_the_images(evaluated, run_dir):
    report, html = json.loads(evaluated.read_text()), evaluated.with_suffix(".html").read_text()
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    broken = round(30 * (report["clean_accuracy"] - report["worst_case"]["robust_accuracy"]))
    assert len(images) == 3 * min(broken, 12) > 0
    for image in images:
        assert Image.open(io.BytesIO(base64.b64decode(image))).size == (8, 8)


def test_names_are_escaped(evaluated, run_dir):
    from atlas_fast.evaluation.page import Extras, write_report

    report = json.loads(evaluated.read_text())
    report["attacks"] = {EVIL: next(iter(report["attacks"].values()))}
    report["masking"], report["run"] = [EVIL], EVIL
    report.pop("curves")
    path = evaluated.with_name("evil.html")
    write_report(path, report, Extras())
    page = check_self_contained(path.read_text())
    assert "".join(page.text).count("<script>alert('x')</script>") >= 3
    assert path.read_text().count('class="signs"') == 1


def test_runs_side_by_side(evaluated, run_dir, tmp_path, capsys):
    report = json.loads(evaluated.read_text())
    other = tmp_path / "other"
    other.mkdir()
    report["attacks"].pop("fgsm")
    report["attacks"]["pgd-3"] |= {"robust_accuracy": 0.123, "settings": {"eps": 0.7}}
    (other / "evaluation.json").write_text(json.dumps(report))
    out = tmp_path / "new" / "both.html"
    cli = importlib.import_module("atlas_fast.evaluate")
    cli.main(["--compare", str(evaluated), str(other), "--out", str(out)])
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("pgd-3 "))
    first = json.loads(evaluated.read_text())["attacks"]["pgd-3"]["robust_accuracy"]
    assert f"{first:.2%} ±" in line and "12.30% ±" in line and line.index(f"{first:.2%}") < line.index("12.30%")
    assert next(line for line in printed.splitlines() if line.startswith("fgsm ")).endswith("–")
    assert "pgd-3 ran with different settings (any_step, eps," in printed
    assert "The worst cases are over different attacks." in printed and "different images" not in printed
    text = " ".join(check_self_contained(out.read_text()).text)
    assert "12.30%" in text and str(other) in text and "different settings" in text


def test_wrong_comparisons(evaluated, run_dir, tmp_path):
    bad = tmp_path / "bad.json"
    for content in ("{", "[]", "{}", '{"attacks": {}, "worst_case": 3}'):
        bad.write_text(content)
        with pytest.raises(UserError, match="bad.json is not a report of this version"):
            side_by_side([evaluated, bad])
    with pytest.raises(UserError, match="at least two"):
        side_by_side([evaluated])
    with pytest.raises(UserError, match="has no evaluation to compare; python -m atlas_fast.evaluate"):
        side_by_side([evaluated, tmp_path])
    cli = importlib.import_module("atlas_fast.evaluate")
    with pytest.raises(UserError, match="--compare takes all the runs"):
        cli.main([str(run_dir), "--compare", str(run_dir), str(run_dir)])
    with pytest.raises(UserError, match="name the folder of a run"):
        cli.main([])
