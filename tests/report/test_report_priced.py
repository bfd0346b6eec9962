"""The page of a price: every odd price makes a whole page that says what was measured and nothing that was not."""

import dataclasses
import functools
import itertools
import json
import math
import re

import pytest
from html_page import Page
from price_records import ROLE_OF, SIZES, make_arm, make_comparison, make_curve, make_estimate, make_price

from foreknow.common.errors import InputError
from foreknow.pricing.records import Calibration, Curve, Estimate, Loss
from foreknow.report import price_words as words
from foreknow.report.priced import price_page, write_price_page

EVIL = '<script>alert("x")</script>'
NOTHING = Estimate(math.nan)
QUANTITIES = ("difference", "sample_ratio", "code_bits", "matched_bits", "time_ratio", "memory_ratio")


def one_arm():
    return make_price(arms=(make_arm("on", calibration=None),), comparisons=(), losses=(), seeds=tuple(range(10)))


def nothing_known():
    none = (math.nan,) * len(SIZES)
    gone = make_arm("off", curves={"log_loss": Curve(none, none, none)}, seconds=none, peak_mb=none, calibration=None)
    unknown = make_comparison("off", **dict.fromkeys(QUANTITIES, NOTHING), verdict="open")
    return make_price(arms=(make_arm("on"), dataclasses.replace(gone, n_failed=5)), comparisons=(unknown,), losses=())


def nothing_measured():
    none = (math.nan,) * len(SIZES)
    arms = [dataclasses.replace(make_arm(name, calibration=None), curves={}, seconds=none) for name in ("on", "off")]
    return make_price(arms=tuple(arms), comparisons=(), losses=(), seeds=(), notes=())


def numbers():
    shares = tuple((q / 10, q / 11, math.nan) for q in range(1, 10))
    found = Calibration(640, 1.2, {"log_loss": 1.1, "coverage_90": 0.8}, {"log_loss": 1.0}, shares, shares)
    scale = {"nearest neighbours": 60.0}
    arms = [
        make_arm(
            name,
            curves={"rmse": make_curve(scale.get(name, 1.0))},
            calibration=found if name in ("on", "off") else None,
        )
        for name in ROLE_OF
    ]
    return make_price(task="regression", measure="rmse", unit="", arms=tuple(arms))


def hostile():
    names = [f"a long name that fits nowhere, with $x^2$ and number {i}" for i in range(9)] + [EVIL + "x" * 80]
    roles = ("wrong", "plain", "reference")
    others = [make_arm(name, roles[i % 3], calibration=None, n_failed=i % 2) for i, name in enumerate(names)]
    sources = [{"name": f"table {i} {EVIL}", "n_rows": 100 + i, "hash": "ab" * 32, "n_classes": 3} for i in range(8)]
    arms = (make_arm("on", what=EVIL, settings={EVIL: [1, EVIL]}), make_arm("off"), *others)
    return make_price(
        title=f'{EVIL} & "q" \x1b[31m \x00 \u202e \ud800 \uffff $x^2$', arms=arms, sources=tuple(sources),
        unit_of_data="<b>rows</b>", notes=(EVIL,), command=f"foreknow price '{EVIL}'",
        comparisons=tuple(make_comparison(arm.name, arm.role) for arm in arms[1:]),
        losses=tuple(Loss(name, 640, "log_loss", make_estimate(0.1, 0.03), sources[1]["name"]) for name in names),
        environment={EVIL: {EVIL: EVIL}}, seeds=(0, 1, 2),
    )  # fmt: skip


ODD = {
    "usual": make_price,
    "one arm": one_arm,
    "one size": lambda: make_price(sizes=(640,)),
    "nothing known": nothing_known,
    "nothing measured": nothing_measured,
    "numbers": numbers,
    "hostile": hostile,
}


@functools.cache
def page_of(name):
    price = ODD[name]()
    text = price_page(price.to_dict())
    return price, text, Page(text)


@pytest.fixture(params=ODD)
def made(request):
    return page_of(request.param)


def test_every_page_is_whole_small_and_needs_nothing(made):
    _, text, page = made
    assert len(text) < 600_000
    text.encode("utf-8")
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "img", "iframe", "link", "object", "base", "b"} & set(tags) and tags.count("style") == 1
    assert not re.search(r"https?:|\bsrc=|@import|xmlns", text)
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href", "data", "action"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
        refs = re.findall(r"url\(([^)]*)\)", " ".join(map(str, attributes.values())))
        assert all(ref.startswith("#") for ref in refs)


def test_no_page_shows_what_is_not_a_number(made):
    _, text, page = made
    assert not re.search(r"\b(nan|NaN|None|inf|Infinity|undefined)\b", text.split("</style>")[1])
    assert "unknown the data" not in page.text


def test_every_page_can_be_heard_and_walked_by_keyboard(made):
    _, text, page = made
    with_attributes = lambda tag: [attributes for found, attributes in page.elements if found == tag]  # noqa: E731
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(with_attributes("table")) == len(with_attributes("caption")) >= 3
    assert all("scope" in attributes for attributes in with_attributes("th"))
    assert len(with_attributes("figure")) == len(with_attributes("figcaption")) == len(with_attributes("svg"))
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in with_attributes("svg"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [attributes["aria-labelledby"] for attributes in with_attributes("section")]
    links = [attributes["href"][1:] for attributes in with_attributes("a") + with_attributes("use")]
    assert set(labels + links) <= set(ids) and with_attributes("a")[0] == {"class": "skip", "href": "#result"}
    regions = [attributes for attributes in with_attributes("div") if attributes.get("class") == "scroll"]
    assert all(r["tabindex"] == "0" and r["role"] == "region" and r["aria-label"] for r in regions)
    assert ("html", {"lang": "en"}) in page.elements
    assert all(part in text for part in ("prefers-color-scheme: dark", "@media print", ":focus-visible"))


def test_every_arm_its_means_and_sentences_are_on_the_page(made):
    price, _, page = made
    record = json.loads(json.dumps(price.to_dict()))
    for arm in price.arms:
        assert " ".join(arm.name.split()) in page.text
    for row in record["comparisons"]:
        for sentence in words.sentences(record, row):
            assert " ".join(sentence.split()) in page.text
    assert " ".join(price.line.split()) in page.text and " ".join(price.command.split()) in page.text


def test_a_page_is_remade_from_json_alone(tmp_path):
    price = make_price()
    numbers = tmp_path / "price.json"
    numbers.write_text(json.dumps(price.to_dict(), allow_nan=False), encoding="utf-8")
    first = write_price_page(price.to_dict(), tmp_path / "a.html")
    second = write_price_page(json.loads(numbers.read_text(encoding="utf-8")), str(tmp_path / "b.html"))
    assert first == tmp_path / "a.html" and first.read_bytes() == second.read_bytes()
    assert price.report(tmp_path / "c.html").read_bytes() == first.read_bytes()


def test_nothing_of_a_record_becomes_markup():
    _, _, page = page_of("hostile")
    assert page.text.count(EVIL) > 10 and "<b>rows</b>" in page.text
    assert "\x1b" not in page.text and "\ufffd[31m \ufffd \ufffd \ufffd \ufffd $x^2$" in page.text


def test_what_is_no_price_is_refused():
    record = make_price().to_dict()
    del record["arms"], record["line"]
    with pytest.raises(InputError, match="no arms, line"):
        price_page(record)


def test_order_of_the_page():
    titles = re.findall(r'<h2 id="h-(\w+)"', page_of("hostile")[1])
    wanted = "price asked curves worth arms calibration losses sources meaning again"
    assert titles == wanted.split()


def test_a_table_a_source_where_units_are_sources():
    names = ("first table", "second table")
    sources = tuple({"name": name, "n_rows": 10, "hash": "ab" * 32} for name in names)
    curve = Curve((0.5,), (0.4,), (0.6,), ((0.4242,), (0.5353,)))
    arms = tuple(make_arm(name, sizes=(640,), curves={"log_loss": curve}) for name in ("on", "off"))
    price = make_price(sizes=(640,), sources=sources, arms=arms, comparisons=(make_comparison(),))
    text = Page(price_page(price.to_dict())).text
    assert "first table 0.424 0.424" in text and "second table 0.535 0.535" in text
    arms = tuple(dataclasses.replace(arm, curves={"log_loss": make_curve(sizes=(640,))}) for arm in arms)
    assert "averaged over the seeds" not in price_page(dataclasses.replace(price, arms=arms).to_dict())


# Words -------------------------------------------------------------------------------------------------------------


def told(**changes):
    role = changes.pop("role", "off")
    price = make_price(comparisons=(make_comparison("off" if role == "off" else "it", role, **changes),))
    record = price.to_dict()
    return record, " ".join(words.sentences(record, record["comparisons"][0]))


def test_a_price_that_is_a_cost_is_said_as_a_cost():
    record, text = told(
        difference=make_estimate(0.124, 0.03), verdict="failed", sample_ratio=make_estimate(0.5, 0.1),
        code_bits=make_estimate(-40.0, 9.0), matched_bits=make_estimate(-9.0, sign="<="),
    )  # fmt: skip
    assert "The prior costs 0.12 nats [0.094, 0.15] of log-loss at 640 rows: without it the loss is lower." in text
    assert "needs only 0.5 times the data [0.4, 0.6]" in text
    assert "it takes 40 [31, 49] bits more than without the prior" in text
    assert "To do as well as a typical run of the system without its prior, on needs at least 9 bits of luck" in text
    assert 'class="verdict worse"' in price_page(record)


def test_censored_ratios_are_bounds():
    assert "needs at least 16 times the data" in told(sample_ratio=make_estimate(16.0, sign=">="))[1]
    record, text = told(sample_ratio=make_estimate(0.25, sign="<=", note="no smaller size was run"))
    assert "needs at most 0.25 times the data to reach the same loss (no smaller size was run)." in text
    assert "&lt;= 0.25x" in price_page(record)


@pytest.mark.parametrize(
    ("changes", "says", "short"),
    [
        (
            {"difference": make_estimate(-0.1, 0.04)},
            "The prior lowers the log-loss by 0.1 nats [0.06, 0.14]",
            "on is better",
        ),
        (
            {"difference": make_estimate(-0.1, 0.2)},
            "lowers the log-loss by 0.1 nats [-0.1, 0.3] at 640 rows (a one-sided",
            "on is better",
        ),
        (
            {"difference": make_estimate(-0.1, 0.2), "verdict": "open"},
            "-0.1 [-0.3, 0.1] nats, and the interval contains zero: these runs do not settle whether the prior helps.",
            "not settled",
        ),
        (
            {"difference": make_estimate(0.001, 0.004, equivalent=True, margin=0.01), "verdict": "open"},
            "is the same with and without the prior: no effect within ±0.01 nats",
            "no effect within ±0.01",
        ),
        ({"difference": NOTHING}, "The difference in log-loss to off is not known.", ""),
        (
            {"difference": make_estimate(0.1), "verdict": "open"},
            "is +0.1 nats: these runs do not settle",
            "not settled",
        ),
        (
            {"role": "plain", "difference": make_estimate(0.1, 0.04), "verdict": "failed"},
            "It wins: its log-loss is 0.1 nats [0.06, 0.14] lower than the system's",
            "on is worse",
        ),
        ({"role": "plain"}, "The system's log-loss is 0.12 nats [0.093, 0.15] lower than that of it", "on is better"),
        ({"role": "wrong"}, "lower than that of the placebo it at 640 rows", "on is better"),
        (
            {"code_bits": make_estimate(3.0, 4.0)},
            "3 [-1, 7] bits fewer than without the prior (the interval contains zero)",
            "on is better",
        ),
    ],
)
def test_what_was_shown_in_a_sentence(changes, says, short):
    record, text = told(**changes)
    assert says in text and words.shown(record["comparisons"][0]) == short


@pytest.mark.parametrize(
    ("role", "verdict", "equivalent", "says"),
    [
        ("wrong", "held", None, "The placebo it does worse than the prior"),
        ("wrong", "failed", None, "The placebo it does better than the prior"),
        ("wrong", "open", True, "The placebo it does as well as the prior"),
        ("wrong", "open", None, "Whether the placebo it does worse than the prior is not settled"),
        ("plain", "failed", None, "prefer it here"),
        ("plain", "held", None, "does worse than the system"),
        ("reference", "held", None, ""),
    ],
)
def test_what_placebo_and_plain_arms_mean(role, verdict, equivalent, says):
    difference = make_estimate(0.001, 0.004, equivalent=equivalent, margin=0.01)
    record, _ = told(role=role, verdict=verdict, difference=difference)
    sentence = words.placebo(record["comparisons"][0])
    assert says in sentence and bool(sentence) == bool(says)


def test_why_blocks_were_not_counted():
    assert words.seeds_counted(make_price(seeds=(1, 2), n_planned=2).to_dict()) == "2 of 2 planned blocks were counted"
    assert words.seeds_counted(make_price().to_dict()).endswith("the others were not finished")
    failed = make_price(arms=(make_arm("on"), make_arm("off", n_failed=2))).to_dict()
    assert "2 cells failed" in words.seeds_counted(failed)
    assert "the whole block of its seed is left out" in price_page(failed)


def test_where_it_loses():
    assert words.where_it_loses(make_price(losses=()).to_dict()) == "Nowhere that these intervals show."
    record = make_price().to_dict()
    assert words.where_it_loses(record).startswith("In 1 place the")
    assert "gradient boosting 640 Brier score +0.013 [0.007, 0.019]" in Page(price_page(record)).text


def test_reasons_of_unknown_numbers_are_said_once():
    record = make_price(comparisons=tuple(
        make_comparison(arm, matched_bits=Estimate(math.nan, note="too few")) for arm in ("off", "gradient boosting")
    )).to_dict()  # fmt: skip
    assert words.unknown(record) == ["Not known: matched bits: too few."]
    record["comparisons"][0]["matched_bits"]["value"] = 1.0
    assert words.unknown(record) == ["Not known: matched bits: too few (against gradient boosting)."]
