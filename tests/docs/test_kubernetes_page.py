"""docs/kubernetes.md says what chart, plan and schema have."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.support.readme import blocks, lines_of
from tests.support.rendered import DEFAULTS, owner_of
from trainyard_api.names import PodPath, Reason
from trainyard_api.validation import load_run_file, validate_document
from trainyard_operator.resources import plan_for_cluster
from trainyard_operator.resources.pod_security import violations

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
CHART = ROOT / "charts" / "trainyard"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SAMPLE = ROOT / "manifests" / "samples" / "quickstart.yaml"
MANIFESTS, *FRAGMENTS = blocks("yaml", PAGE)
CLAIM, FILES = yaml.safe_load_all(MANIFESTS)
COMMANDS = [shlex.split(line) for block in blocks("sh", PAGE) for line in lines_of(block)]


def test_only_programs_that_the_page_asks_for_are_used():
    assert {words[0] for words in COMMANDS} == {"docker", "helm", "kubectl"}


def test_the_claim_is_the_one_that_runs_have_without_a_word_and_pods_of_one_user_share_it():
    assert CLAIM["metadata"]["name"] == VALUES["worker"]["defaultClaimName"]
    assert FILES["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
    assert FILES["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == PodPath.DATA
    context = FILES["spec"]["securityContext"]
    assert {context[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {DEFAULTS.user_id}
    assert violations(FILES) == []


def test_values_that_are_set_exist_and_name_the_images_that_are_built():
    (install,) = [words for words in COMMANDS if words[0] == "helm"]
    built = {words[words.index("--tag") + 1] for words in COMMANDS if words[:2] == ["docker", "build"]}
    assert built == {words[2] for words in COMMANDS if words[:2] == ["docker", "push"]}
    named = set()
    for setting in (word for word in install if "=" in word):
        path, _, value = setting.partition("=")
        known = VALUES
        for part in path.split("."):
            known = known[part]
        version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
        named.add(f"{value}:{version}")
    assert named == built
    assert FILES["spec"]["containers"][0]["image"] in built


def test_text_and_model_lie_where_the_sample_and_the_plan_have_them():
    run = load_run_file(SAMPLE)
    plan = plan_for_cluster(run, owner_of(run), 0, DEFAULTS)
    copied = [words[-2:] for words in COMMANDS if "cp" in words]
    (_, text), (model, _) = copied
    (source,) = run.spec.data.sources
    assert source.uri.startswith(f"file://{text.partition(':')[2]}/")
    assert model == f"files:{plan.paths.model}"


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_fragment_belongs_into_a_run(fragment):
    document = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    document["spec"] |= yaml.safe_load(fragment)
    document["spec"]["training"] |= {"globalBatchSize": 64, "microBatchSize": 1}
    run = validate_document(document)
    assert json.loads(run.model_dump_json(by_alias=True))["spec"]["workers"]


def test_reasons_in_the_table_are_words_of_the_api():
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    told = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert len(told) >= 5
    assert told <= set(Reason)
