"""reproduce and claims: what is run, what is skipped, what the page holds, and how a claim gets its word."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from synthetic_store import filled

from pliant.errors import PliantError, UnknownNameError
from pliant.lab import papers, records, reproduction
from pliant.lab.claims import Known, settle, size_of
from pliant.lab.evidence import Evidence
from pliant.lab.papers import PAPERS
from pliant.lab.report.reproduction import Drawing, Paper, Part, Reproduction, render
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import plan

TIERS = ("smoke", "lite", "full")


def text_of(page: str) -> str:
    """The words of a page."""
    body = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


# --- which studies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", PAPERS)
def test_every_study_of_a_paper_is_run_or_told(paper: str) -> None:
    for tier in TIERS:
        found = reproduction.tasks([paper], tier)
        names = [t.name for t in found]
        assert len(names) == len(set(names))
        assert set(names) >= {n for n, s in papers.studies().items() if s.paper == paper}
        for task in found:
            assert (task.study is None) == bool(task.why)
            if task.study is not None:
                assert task.study.tier == tier
                assert task.trials > 0
    full = reproduction.tasks([paper], "full")
    assert all(t.study is not None for t in full)


def test_only_takes_tables_figures_and_studies() -> None:
    (one,) = reproduction.tasks(["srelu"], "smoke", ["srelu-fig3"])
    assert one.name == "srelu-wdbc"
    both = reproduction.tasks(["srelu", "dsrelu"], "full", ["srelu-fig3", "dsrelu-fig2"])
    assert {t.name for t in both} == {"srelu-wdbc", *papers.groups()["dsrelu-fig2"].studies}
    with pytest.raises(PliantError, match="leaves no study"):
        reproduction.tasks(["aaf"], "smoke", ["srelu-wdbc"])


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match="srelu"):
        reproduction.tasks(["sreluu"], "smoke")
    with pytest.raises(UnknownNameError, match="smoke"):
        reproduction.tasks(["srelu"], "smok")
    with pytest.raises(UnknownNameError, match="srelu-fig3"):
        reproduction.tasks(["srelu"], "smoke", ["srelu-fig33"])


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of all papers at full size when nothing was run."""
    target = tmp_path_factory.mktemp("bare") / "all.full" / "index.html"
    reproduction.write(PAPERS, "full", Known(None), target, command="pliant reproduce dsrelu srelu aaf --tier full")
    return target.read_text(encoding="utf-8")


def test_no_printed_number_is_without_its_place_on_the_page(bare: str) -> None:
    walked = 0
    for group in papers.groups().values():
        if group.printed is None or group.paper not in PAPERS:
            continue
        start = bare.index(f'<section id="{group.paper}-{group.name}"')
        section = text_of(bare[start : bare.index("</section>", start)])
        for value in (v for v in papers.printed() if v.table == group.printed):
            shown = (
                (value.raw or repr(value.value)).partition("±")[0].strip(" $")
                if value.value is not None
                else "did not converge"
            )
            assert shown in section, (group.name, value)
            assert value.activation in section
            walked += 1
    assert walked == 770


def test_the_page_is_one_small_file_that_loads_nothing(bare: str) -> None:
    assert len(bare.encode()) < 3_000_000
    assert "default-src 'none'" in html.unescape(bare)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', bare)


def test_every_group_claim_and_deviation_is_on_the_page(bare: str) -> None:
    text = text_of(bare)
    for paper in PAPERS:
        for group in (g for g in papers.groups().values() if g.paper == paper):
            assert f'id="{paper}-{group.name}"' in bare
        for claim in papers.claims(paper):
            assert " ".join(claim.title.split()) in text
        for deviation in papers.deviations(paper):
            assert f'<th scope="row">{deviation.id}</th>' in bare
    assert text.count("not run") > 60
    assert "pliant run srelu-wdbc --tier full (" in text


@pytest.mark.parametrize("tier", ["smoke", "full"])
def test_the_tier_stands_in_every_heading(tier: str, bare: str, tmp_path: Path) -> None:
    page = bare
    if tier != "full":
        target = tmp_path / "index.html"
        page = reproduction.write(["srelu"], "smoke", Known(None), target, command="").read_text(encoding="utf-8")
    headings = re.findall(r"<h[12][^>]*>(.*?)</h[12]>", page, flags=re.DOTALL)
    assert len(headings) > 10
    assert all(f">{tier} " in heading for heading in headings)
    assert ("reduced" in text_of(page)) == (tier == "smoke") or tier == "full"


@pytest.fixture(scope="module")
def wdbc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store in which srelu-wdbc at the smoke tier is finished, with its report."""
    root = tmp_path_factory.mktemp("store")
    study = papers.study("srelu-wdbc", "smoke")
    store = filled(root, study)
    result = Result(study, store)
    store.write_json(result.directory / "study.json", study.model_dump(mode="json"))
    result.report()
    return store, root


def test_ours_stands_beside_what_is_printed(wdbc: tuple[Store, Path], tmp_path: Path) -> None:
    store, root = wdbc
    target = root / "reproduce" / "srelu.smoke" / "index.html"
    page = reproduction.write(["srelu"], "smoke", Known(store), target, command="").read_text(encoding="utf-8")
    start = page.index('<section id="srelu-srelu-results"')
    section = text_of(page[start : page.index("</section>", start)])
    estimate = Evidence.of(Result(papers.study("srelu-wdbc", "smoke"), store)).estimate("srelu", "test_accuracy")
    assert estimate is not None
    assert f"{100 * estimate.mean:.2f}" in section
    assert 'href="../../studies/srelu-wdbc.smoke/report.html"' in page
    assert (target.parent / "../../studies/srelu-wdbc.smoke/report.html").is_file()
    # Figure 3 is the confusion matrix of WDBC: drawn from the study's own figure.
    start = page.index('<section id="srelu-srelu-fig3"')
    assert "<svg" in page[start : page.index("</section>", start)]
    assert "srelu-mnist" in section
    assert "no result yet" in section


def test_drawings_on_one_page_never_share_an_id(tmp_path: Path) -> None:
    svg = '<svg><clipPath id="clip0"/><g clip-path="url(#clip0)"/></svg>'
    drawing = Drawing("A chart", "ours", svg)
    part = Part(
        "srelu-fig4", "SReLU, figure 4", "loss", (), drawings=(drawing, drawing, Drawing("None", "ours", "", "Not drawn."))
    )
    paper = Paper("srelu", "SReLU", {}, (part,), ())
    page = render(Reproduction((paper,), "smoke", "small", "pliant reproduce srelu", {}))
    clips = re.findall(r'<clipPath id="([^"]+)"', page)
    assert len(clips) == len(set(clips)) == 2
    assert all(f"url(#{clip})" in page for clip in clips)
    assert "Not drawn." in page


def test_the_same_page_comes_from_records_alone(wdbc: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = wdbc
    records.write(Result(papers.study("srelu-wdbc", "smoke"), store), tmp_path / "records", command="pliant run srelu-wdbc")
    known = Known(None, tmp_path / "records")
    data = reproduction.page_of(["srelu"], "smoke", known, tmp_path / "index.html", command="")
    (part,) = (p for p in data.papers[0].parts if p.id == "srelu-fig3")
    assert part.members[0].origin == "record"
    assert part.drawings[0].svg.startswith("<svg")
    assert known.best("srelu-wdbc") is known.at("srelu-wdbc", "smoke")
    assert known.best("srelu-wdbc", "full") is None


# --- the commands -----------------------------------------------------------------------------------------------------


def test_without_a_tier_it_says_what_each_costs(pliant, tmp_path: Path) -> None:
    code, out, _ = pliant("reproduce", "dsrelu", "srelu", "--records", str(tmp_path))
    assert code == 2
    assert "choose a tier with --tier" in out
    assert "Nothing has been started" in out
    trials = sum(t.trials for t in reproduction.tasks(["dsrelu", "srelu"], "full"))
    assert re.search(rf"full \d+ {trials} 0 ", out), out
    assert not (tmp_path / "pliant-store").exists()


def test_a_study_without_its_data_is_skipped_and_told(
    pliant, wdbc: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "nothing"))
    _, root = wdbc
    arguments = ["reproduce", "srelu", "--tier", "smoke", "--on", "serial", "--store", str(root), "--records", str(tmp_path)]
    code, out, err = pliant(*arguments, "--only", "srelu-wdbc", "--only", "srelu-mnist", "-q")
    assert code == 0, err
    assert "skipped:" in out
    assert "srelu-mnist:" in out
    assert "1 of 2 studies have results" in out
    page = (root / "reproduce" / "srelu.smoke" / "index.html").read_text(encoding="utf-8")
    assert "not run: The data set" in text_of(page)


def test_claims_read_well_in_a_hundred_columns(pliant, wdbc: tuple[Store, Path], capsys, monkeypatch) -> None:
    _, root = wdbc
    monkeypatch.setattr("sys.argv", ["pliant", "claims", "srelu", "--store", str(root), "--records", str(root)])
    from pliant import cli

    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert out.count("paper  ") >= 14
    # A word of a reduced tier never stands alone.
    words = re.findall(r"(SUPPORTED|REFUTED|UNDECIDED)((?: at the \w+ tier only)?): ", out)
    assert words
    assert all(tier == " at the smoke tier only" for _, tier in words)
    assert "not run: " in out
    assert re.search(r"run pliant run srelu-\S+ --tier full \(\d+ trials of \d+ epochs", " ".join(out.split()))


def test_claims_for_programs(pliant, wdbc: tuple[Store, Path]) -> None:
    _, root = wdbc
    code, out, err = pliant("claims", "srelu", "--store", str(root), "--records", str(root), "--json")
    assert code == 0, err
    answers = json.loads(out)
    assert [a["number"] for a in answers] == list(range(24, 38))
    decided = [a for a in answers if a["state"] == "decided"]
    assert decided
    assert all(f["tier"] == "smoke" and f["n"] == 2 for a in decided for f in a["findings"])
    lacking = [a for a in answers if a["state"] == "not run"]
    assert lacking
    assert all(a["command"].startswith("pliant run ") and a["wanting"][0]["trials"] > 0 for a in lacking)
    code, _, err = pliant("claims", "relu")
    assert code == 2
    assert "no paper named 'relu'" in err


def test_figures_of_formulas_are_drawn_from_them() -> None:
    whole = reproduction.page_of(["dsrelu", "aaf"], "smoke", Known(None), Path("page/index.html"), command="x")
    parts = {part.id: part for paper in whole.papers for part in paper.parts}
    for name, words in {
        "dsrelu-fig1": ("k = 100", "Progress t", "tan 70°"),
        "aaf-fig1": ("Sigmoid", "Tanh", "ReLU"),
        "aaf-fig2": ("ASigmoid", "a=1, b=0.25, c=0, d=1", "FReLU"),
    }.items():
        (drawing,) = parts[name].drawings
        assert drawing.source == "ours"
        assert all(word in html.unescape(drawing.svg) for word in words), name
    curves = reproduction._slopes(70, 35, [5])
    # As the table of docs/papers/dsrelu.md has it.
    assert [round(curves[0].y[i], 3) for i in (0, 50, 100)] == [2.592, 1.724, 0.856]
    (arelu,) = reproduction._functions(["arelu[a=1,b=0.25,c=0,d=1]"])
    assert dict(zip(arelu.x, arelu.y, strict=True))[-2.0] == 0.5


def test_where_nothing_was_run_the_command_and_its_cost_stand() -> None:
    known = Known(None)
    for number in papers.claims():
        answer = settle(number, known)
        assert answer.state in ("settled", "open", "not run")
        if answer.state == "not run":
            name = answer.command.split()[2]
            assert answer.command.removesuffix(" --on serial --stack 1") == f"pliant run {name} --tier full"
            assert answer.command.endswith("--stack 1") == (number.number in (19, 22, 55))
            assert answer.wanting[0].trials == size_of(papers.study(name)) > 0
            assert answer.cost.startswith(f"{answer.wanting[0].trials:,} trials of {papers.study(name).train.epochs} epochs")
            assert len(answer.wanting) == len(number.studies) or number.tests


def test_the_size_of_a_study_is_that_of_its_plan() -> None:
    for tier in papers.tiers("srelu-wdbc"):
        study = papers.study("srelu-wdbc", tier)
        assert size_of(study) == len(plan(study))


def test_a_store_goes_before_a_record_and_the_fuller_of_both(wdbc: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = wdbc
    study = papers.study("srelu-wdbc", "smoke")
    records.write(Result(study, store), tmp_path, command="pliant run srelu-wdbc --tier smoke")
    both = Known(store, tmp_path).at("srelu-wdbc", "smoke")
    assert both is not None
    assert both.origin == "store"
    half = Store(tmp_path / "half")
    half.write_json(half.study(study.directory) / "study.json", study.model_dump(mode="json"))
    found = Known(half, tmp_path).at("srelu-wdbc", "smoke")
    assert found is not None
    assert found.origin == "record"
    changed = study.override(["train.epochs=3"])
    kept = records.read(records.write(Result(changed, filled(tmp_path / "changed", changed)), tmp_path / "other", command="x"))
    assert kept.about["changes"]
    assert Known(None, tmp_path / "other").at("srelu-wdbc", "smoke") is None


CHANGES = ("protocol.repeats=2", "train.epochs=4")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Records of srelu-wdbc at the smoke tier, made of invented trials: changed, with fewer trials and other changes, plain."""
    root = tmp_path_factory.mktemp("recorded")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        # What is drawn does not matter here, and takes most of the time.
        patch.setattr(records, "FIGURES", ())
        patch.setattr(records, "draw", lambda _: {})
        for name, changes in (("changed", CHANGES), ("less", ("train.epochs=4",)), ("plain", ())):
            study = papers.study("srelu-wdbc", "smoke").override(changes)
            result = Result(study, filled(root / "stores" / name, study))
            found[name] = records.write(result, root / name, command="pliant run srelu-wdbc --tier smoke")
    return found


def add(record: Path, into: Path) -> str:
    """Put a record into a folder of records; its name."""
    shutil.copytree(record, into / record.name)
    records.write_index(into)
    return record.name


def test_a_changed_study_is_kept_beside_its_tier_and_speaks_where_that_does_not(
    recorded: dict[str, Path], tmp_path: Path
) -> None:
    less, more = add(recorded["less"], tmp_path), add(recorded["changed"], tmp_path)
    assert re.fullmatch(r"srelu-wdbc\.smoke\.[0-9a-f]{8}", more)
    known = Known(None, tmp_path)
    assert known.at("srelu-wdbc", "smoke") is None
    assert known.best("srelu-wdbc", "lite") is None
    # Of two changed ones the one with more in it speaks.
    assert less != more
    found = known.best("srelu-wdbc")
    assert found is not None
    assert found.directory == more
    assert found.size == "smoke, changed: protocol.repeats=2, train.epochs=4"
    # As soon as there is the tier as it is defined, that does, although it has fewer trials.
    assert add(recorded["plain"], tmp_path) == "srelu-wdbc.smoke"
    known = Known(None, tmp_path)
    best = known.best("srelu-wdbc")
    assert best is not None
    assert best is known.at("srelu-wdbc", "smoke")
    assert best.size == "smoke"
    assert best.scored < found.scored


def test_a_claim_goes_from_not_run_to_the_word_of_its_tier_wherever_it_is_shown(
    pliant, recorded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = script()
    kept = tmp_path / "records"
    kept.mkdir()
    monkeypatch.setattr(tables, "RECORDS", kept)

    def shown() -> tuple[str, str, str]:
        """Claim 30, which is about srelu-wdbc alone: on the command line, in the documents, on the page of its tier."""
        code, out, err = pliant("claims", "srelu", "--records", str(kept), "--store", str(tmp_path / "none"))
        assert code == 0, err
        line = out[out.index(" 30 0.2 %") : out.index(" 31 Mistakes")]
        known = Known(None, kept)
        row = next(cells for cells in tables.claim_rows("srelu", known) if cells[0] == "30")
        page = reproduction.write(["srelu"], "smoke", known, tmp_path / "index.html", command="").read_text(encoding="utf-8")
        start = page.index('<td class="number">30</td>')
        return line, row[-1], text_of(page[start : page.index("</tr>", start)])

    line, row, part = shown()
    trials = size_of(papers.study("srelu-wdbc"))
    assert "ours not run: " in line
    assert f"run pliant run srelu-wdbc --tier full ({trials} trials of 100 epochs)" in line
    assert row == f"**not run**: `pliant run srelu-wdbc --tier full`, {trials} trials of 100 epochs"
    assert "not run" in part
    assert f"pliant run srelu-wdbc --tier smoke ({size_of(papers.study('srelu-wdbc', 'smoke'))} trials of 20 epochs)" in part
    assert tables.results("srelu").startswith("No study of this paper has a record yet")

    name = add(recorded["changed"], kept)
    label = "UNDECIDED at the smoke tier only (changed: protocol.repeats=2, train.epochs=4)"
    line, row, part = shown()
    assert f"ours {label}: SReLU(1, 0.25) minus ReLU, test_accuracy:" in line
    assert f"n = 4 [CANNOT TELL; {name}, from the record]" in line
    assert "run pliant run srelu-wdbc --tier full" in line
    # In the documents the record that is linked says what was changed.
    assert row.startswith("**UNDECIDED at the smoke tier only, changed**: SReLU(1, 0.25) minus ReLU")
    assert f"n = 4 (cannot tell; [`{name}`](../../records/{name}))" in row
    assert "UNDECIDED at the smoke tier only, changed" in part
    assert "Changed: protocol.repeats=2, train.epochs=4." in part
    assert f"n = 4 (CANNOT TELL; {name})" in part
    told = tables.results("srelu")
    assert "(**smoke tier, reduced, changed**; changed: `protocol.repeats=2`, `train.epochs=4`)" in told
    assert f"[`{name}`](../../records/{name})" in told
    size = "smoke, changed: protocol.repeats=2, train.epochs=4"
    assert f"| [{name}]({name}) | {size} |" in (kept / "README.md").read_text()
    page = text_of((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert f"Recorded at {size} ({name}, 36 rows): against ReLU" in page

    add(recorded["plain"], kept)
    line, row, part = shown()
    assert "ours UNDECIDED at the smoke tier only: " in line
    assert "n = 2 [CANNOT TELL; srelu-wdbc.smoke, from the record]" in line
    assert row.startswith("**UNDECIDED at the smoke tier only**: ")
    assert "n = 2 (cannot tell; [`srelu-wdbc.smoke`](../../records/srelu-wdbc.smoke))" in row
    assert "n = 2 (CANNOT TELL; srelu-wdbc.smoke)" in part
    assert "changed" not in line + row + part


def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "papers_tables.py"
    spec = importlib.util.spec_from_file_location("papers_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
