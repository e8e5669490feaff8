"""What the test cluster runs, from which pinned source, and how each program is built."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.go_tool import GoTool, run_compiler
from tests.cluster.locations import SOURCES, programs_folder

KUBERNETES_VERSION = "1.34.4"
ETCD_VERSION = "3.6.6"
KWOK_VERSION = "0.8.0"
COREDNS_VERSION = "1.15.0"
HELM_VERSION = "3.20.2"
KUEUE_VERSION = "0.17.0"
PROMETHEUS_VERSION = "0.313.5"
"""Of the Go module; the product's is 3.13.5."""

CONTROL_PLANE = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kwok",
    "helm",
)
REAL_NODE = ("kubelet", "kube-proxy", "coredns", "pause")
MONITORING = ("alerts",)
BATCH_QUEUE = ("kueue", "kueue-chart")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How programs come about that share one source.

    Args:
        key: name and version; also the folder, so that a new version is built beside the old one.
        programs: what is built, the names of the executables.
        build: builds one program, from the Go tool, an empty folder, its name and the file to write.
    """

    key: str
    programs: tuple[str, ...]
    build: Callable[[GoTool, Path, str, Path], None]

    def path(self, program: str) -> Path:
        """Where the program lies once it is built."""
        return programs_folder() / self.key / program


def _build_kubernetes(go: GoTool, work: Path, program: str, target: Path) -> None:
    """Build one of Kubernetes' commands in a module of our own.

    Kubernetes requires its staging modules as v0.0.0 and replaces them by folders that only its own
    repository has, so that `go install` refuses it. Each is published as v0.MINOR.PATCH, which is used here.
    """
    minor_and_patch = KUBERNETES_VERSION.removeprefix("1.")
    module = f"k8s.io/kubernetes@v{KUBERNETES_VERSION}"
    staged = [
        replaced["Old"]["Path"]
        for replaced in go.read_module_file(module)["Replace"]
        if replaced["New"]["Path"].startswith("./staging/")
    ]
    replacements = "".join(f"replace {path} => {path} v0.{minor_and_patch}\n" for path in staged)
    go.write_module(work, f"require k8s.io/kubernetes v{KUBERNETES_VERSION}\n{replacements}")
    component = "k8s.io/component-base/version"
    go.build(
        work,
        f"k8s.io/kubernetes/cmd/{program}",
        target,
        variables={
            f"{component}.gitVersion": f"v{KUBERNETES_VERSION}",
            f"{component}.gitMajor": "1",
            f"{component}.gitMinor": minor_and_patch.split(".")[0],
        },
    )


def _build_etcd(go: GoTool, work: Path, _program: str, target: Path) -> None:
    go.write_module(work, f"require go.etcd.io/etcd/server/v3 v{ETCD_VERSION}\n")
    go.build(work, "go.etcd.io/etcd/server/v3", target)


def _build_kwok(go: GoTool, _work: Path, program: str, target: Path) -> None:
    go.install(f"sigs.k8s.io/kwok/cmd/{program}@v{KWOK_VERSION}", target)


def _build_helm(go: GoTool, _work: Path, program: str, target: Path) -> None:
    version = f"v{HELM_VERSION}"
    go.install(
        f"helm.sh/helm/v3/cmd/{program}@{version}",
        target,
        variables={"helm.sh/helm/v3/internal/version.version": version},
    )


def _build_kueue(go: GoTool, _work: Path, program: str, target: Path) -> None:
    """Build Kueue's controller, or copy the chart of the same module."""
    module = f"sigs.k8s.io/kueue@v{KUEUE_VERSION}"
    if program == "kueue":
        go.install(f"sigs.k8s.io/kueue/cmd/kueue@v{KUEUE_VERSION}", target)
    else:
        shutil.copytree(go.download(module) / "charts" / "kueue", target, copy_function=shutil.copyfile)


def _build_coredns(go: GoTool, work: Path, _program: str, target: Path) -> None:
    go.write_module(work, f"require github.com/coredns/coredns v{COREDNS_VERSION}\n")
    shutil.copy(SOURCES / "dns" / "main.go", work)
    go.build(work, ".", target)


def _build_alerts(go: GoTool, work: Path, _program: str, target: Path) -> None:
    go.write_module(work, f"require github.com/prometheus/prometheus v{PROMETHEUS_VERSION}\n")
    shutil.copy(SOURCES / "alerts" / "main.go", work)
    go.build(work, ".", target)


def _build_pause(_go: GoTool, _work: Path, _program: str, target: Path) -> None:
    run_compiler(["-static", "-Os", "-Wall", "-Werror", "-o", str(target), str(SOURCES / "pause.c")])


def _content_key(path: Path) -> str:
    """Short hash of a source of our own, which has no version."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


RECIPES = (
    Recipe(f"etcd-{ETCD_VERSION}", ("etcd",), _build_etcd),
    Recipe(
        f"kubernetes-{KUBERNETES_VERSION}",
        (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubectl",
            "kubelet",
            "kube-proxy",
        ),
        _build_kubernetes,
    ),
    Recipe(f"kwok-{KWOK_VERSION}", ("kwok",), _build_kwok),
    Recipe(f"helm-{HELM_VERSION}", ("helm",), _build_helm),
    Recipe(f"kueue-{KUEUE_VERSION}", BATCH_QUEUE, _build_kueue),
    Recipe(
        f"coredns-{COREDNS_VERSION}-{_content_key(SOURCES / 'dns' / 'main.go')}", ("coredns",), _build_coredns
    ),
    Recipe(
        f"alerts-{PROMETHEUS_VERSION}-{_content_key(SOURCES / 'alerts' / 'main.go')}",
        ("alerts",),
        _build_alerts,
    ),
    Recipe(f"pause-{_content_key(SOURCES / 'pause.c')}", ("pause",), _build_pause),
)


def recipe_of(program: str) -> Recipe:
    """The recipe that builds the program."""
    return next(recipe for recipe in RECIPES if program in recipe.programs)


def program_path(program: str) -> Path:
    """Where a program of the cluster lies."""
    return recipe_of(program).path(program)


def missing_programs(programs: Sequence[str]) -> list[str]:
    """Those of the programs that are not built yet."""
    return [program for program in programs if not program_path(program).exists()]
