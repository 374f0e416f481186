"""Plans: what is read, what is refused, and what an arm's recipe is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qabert.errors import InputError
from qabert.task_files import load_tasks
from qabert.tasks import PAPER_TASKS
from qabert.training.plans import Plan, read_plan

PLANS = sorted((Path(__file__).parents[2] / "scripts" / "reproductions").glob("*.yaml"))
ARMS = {"baseline": {"format": "separate"}, "qa": {}, "qa_other": {"question": "other"}}
OTHER = {"other": {"sst": "Is it a duplicate?"}}


def write(folder: Path, **values) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"settings": {"data": "demo"}, "arms": ARMS, "questions": OTHER} | values))
    return path


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_shipped_plans_can_be_run(path, tmp_path):
    plan = read_plan(path, {"use_cpu": True})
    for arm in plan.arms:
        args = plan.arguments(arm, plan.seeds[0], tmp_path)
        args.load_tasks()
        assert args.training_arguments().seed == plan.seeds[0]


@pytest.mark.parametrize("path", [p for p in PLANS if p.stem in ("paper", "questions")], ids=lambda path: path.stem)
def test_shipped_questions_are_what_they_are_said_to_be(path):
    plan = read_plan(path, {})
    for name, task in PAPER_TASKS.items():
        own = task.question.removesuffix("?").split()
        shuffled = plan.questions["shuffled"][name].removesuffix("?").split()
        assert sorted(shuffled) == sorted(own) and shuffled != own
        assert plan.questions["other"][name] in {other.question for other in PAPER_TASKS.values()} - {task.question}


def test_a_recipe_is_the_settings_with_the_arms_keys(tmp_path):
    plan = read_plan(write(tmp_path, seeds=[3]), {"learning_rate": 1e-3})
    assert plan.recipe("baseline", 3) == {"data": "demo", "learning_rate": 1e-3, "format": "separate", "seed": 3}


def test_an_arms_question_changes_the_tasks_questions_alone(tmp_path):
    plan = read_plan(write(tmp_path), {})
    tasks = load_tasks(plan.recipe("qa_other", 1)["tasks"])
    assert tasks["sst"].question == "Is it a duplicate?"
    assert tasks["quora"] == PAPER_TASKS["quora"]
    assert {**tasks["sst"].to_dict(), "question": ""} == {**PAPER_TASKS["sst"].to_dict(), "question": ""}
    assert tasks["sst"].files == PAPER_TASKS["sst"].files
    assert "tasks" not in plan.recipe("qa", 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sead": [1]}, "unknown key 'sead'"),
        ({"arms": {}}, "no arm"),
        ({"arms": []}, "key 'arms' has .*expected a mapping"),
        ({"arms": {"../x": {}}}, "is no name"),
        ({"arms": {"qa": [1]}}, "arm 'qa': expected 'key: value'"),
        ({"arms": {"qa": {"question": "othr"}}}, r"arm 'qa': unknown question 'othr' \(did you mean 'other'"),
        ({"seeds": [1, 1]}, "key 'seeds'"),
        ({"seeds": []}, "key 'seeds'"),
        ({"seeds": [True]}, "key 'seeds'"),
        ({"seeds": 3}, "key 'seeds' has 3; expected a list"),
        ({"compare": [["qa"]]}, "key 'compare'"),
        ({"compare": [["qa", "joint"]]}, "key 'compare': unknown arm 'joint'"),
        ({"notes": {"qaa": "x"}}, "key 'notes': unknown arm 'qaa'"),
        ({"saliency": {"arms": ["x"]}}, "unknown arm 'x'"),
        ({"saliency": {"row": 3}}, "unknown key 'row'"),
        ({"saliency": {"rows": 0}}, "'rows'"),
        ({"question_rows": "many"}, "key 'question_rows'"),
        ({"questions": {"other": {"ssst": "x"}}}, "unknown task 'ssst'"),
        ({"questions": {"other": {"sst": 3}}}, "expected text"),
        ({"questions": {"other": "x"}}, "expected a question by task"),
        ({"settings": {"tasks": "sst,stss"}}, "unknown task 'stss'"),
    ],
)
def test_a_plan_that_cannot_work_names_the_key(tmp_path, values, message):
    with pytest.raises(InputError, match=message) as error:
        read_plan(write(tmp_path, **values), {})
    assert "plan.yaml" in str(error.value)


@pytest.mark.parametrize("key", ["format", "seed", "output_dir", "resume"])
def test_a_flag_that_an_arm_or_a_run_sets_itself_is_refused(tmp_path, key):
    with pytest.raises(InputError, match=f"key '{key}'"):
        read_plan(write(tmp_path), {key: "qa"})


def test_a_key_that_is_missing_is_named(tmp_path):
    (tmp_path / "plan.yaml").write_text("arms: {qa: {}}")
    with pytest.raises(InputError, match="key 'settings' is missing"):
        read_plan(tmp_path / "plan.yaml", {})


def test_an_arms_bad_key_names_the_arm(tmp_path):
    plan = Plan(settings={"data": "demo"}, arms={"qa": {"learnig_rate": 1}})
    with pytest.raises(InputError, match=r"arm 'qa': unknown key 'learnig_rate'.*learning_rate"):
        plan.arguments("qa", 1, tmp_path)


def test_a_plan_is_read_back_as_it_was_written(tmp_path):
    plan = read_plan(write(tmp_path, compare=[["baseline", "qa"]], saliency={"rows": 3, "arms": ["qa"]}), {})
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(plan.to_dict()))
    assert read_plan(tmp_path / "again.yaml", {}).to_dict() == plan.to_dict()
