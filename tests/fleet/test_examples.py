"""The examples of fleets: each is what the program that reads it accepts, and each starts a fleet that can run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from neonym.cli.fleet import FleetFlags
from neonym.config.flags import flags_in
from neonym.fleet.plan import read_plan
from support import ROOT

EXAMPLES = ROOT / "examples" / "fleet"
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}  # YAML's booleans and numbers are no texts
SIZES = {"type": "object", "additionalProperties": TEXT, "required": ["cpu", "memory"]}


def record(required: list[str], **fields: Any) -> dict[str, Any]:
    """Return the schema of an object with these fields and no others."""
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


# the fields that these examples use, of https://docs.skypilot.co/en/latest/reference/yaml-spec.html
SKYPILOT = record(
    ["resources", "run"],
    name=TEXT,
    num_nodes={"type": "integer", "minimum": 1},
    resources=record(
        ["accelerators"],
        accelerators={"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
        use_spot={"type": "boolean"}, disk_size=COUNT, autostop=COUNT,
    ),
    envs=TEXTS, workdir=TEXT, setup=TEXT, run=TEXT,
    file_mounts={
        "type": "object",
        "additionalProperties": record(["source"], source=TEXT, mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]}),
    },
)  # fmt: skip
CONTAINER = record(
    ["name", "image"], name=TEXT, image=TEXT,
    env={"type": "array", "items": record(["name", "value"], name=TEXT, value=TEXT)},
    resources=record([], requests=SIZES, limits=SIZES),
    volumeMounts={
        "type": "array", "items": record(["name", "mountPath"], name=TEXT, mountPath=TEXT, readOnly={"type": "boolean"})
    },
)  # fmt: skip
VOLUME = record(
    ["name"],
    name=TEXT,
    configMap=record(["name"], name=TEXT),
    persistentVolumeClaim=record(["claimName"], claimName=TEXT),
)
POD = record(
    ["spec"],
    spec=record(
        ["containers"], containers={"type": "array", "items": CONTAINER, "minItems": 1},
        volumes={"type": "array", "items": VOLUME},
    ),
)  # fmt: skip
# the fields that these examples use, of https://ray-project.github.io/kuberay/reference/api/
RAY_JOB = record(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"}, metadata=record(["name"], name=TEXT),
    spec=record(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT, shutdownAfterJobFinishes={"type": "boolean"}, ttlSecondsAfterFinished=COUNT, backoffLimit=COUNT,
        rayClusterSpec=record(
            ["headGroupSpec"],
            rayVersion=TEXT, enableInTreeAutoscaling={"type": "boolean"},
            headGroupSpec=record(["rayStartParams", "template"], rayStartParams=TEXTS, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": record(
                    ["groupName", "rayStartParams", "template"], groupName=TEXT, replicas=COUNT, minReplicas=COUNT,
                    maxReplicas=COUNT, rayStartParams=TEXTS, template=POD,
                ),
            },
        ),
    ),
)  # fmt: skip


def content(name: str) -> Any:
    """Return the content of an example."""
    return yaml.safe_load((EXAMPLES / name).read_text())


def ray_schema() -> dict[str, Any]:
    """Return the schema with which `ray up` checks a cluster."""
    ray = pytest.importorskip("ray", reason="`make setup` installs it")
    return json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


def test_the_cluster_is_what_ray_accepts():
    cluster, schema = content("ray-cluster.yaml"), ray_schema()
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_wrokers": 8}, schema)


@pytest.mark.parametrize(("name", "schema"), [("skypilot.yaml", SKYPILOT), ("ray-job.yaml", RAY_JOB)])
def test_the_other_examples_have_the_fields_of_their_programs(name, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content(name), schema)


def test_every_mount_of_a_pod_is_a_volume():
    cluster = content("ray-job.yaml")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "skypilot.yaml", "ray-job.yaml"])
def test_the_commands_in_the_examples_have_flags_that_exist(name):
    commands = re.findall(r"neonym fleet [^\"\n]*(?:\"[$\w:.]+\"[^\"\n]*)*", (EXAMPLES / name).read_text())
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert {"output_dir", "ray"} <= flags_in(words, FleetFlags) <= set(FleetFlags.model_fields), command


@pytest.mark.parametrize("key", ["setup", "run"])
def test_the_scripts_are_shell(key):
    subprocess.run(["bash", "-n"], input=content("skypilot.yaml")[key], text=True, check=True)


def test_the_plan_can_be_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    words, problems = read_plan(EXAMPLES / "plan.toml")
    assert [word.name for word in words] == ["nutkin", "waddlo", "notoish"]
    assert problems == []
    assert len({word.group for word in words}) == 1
