"""What every child carries: labels that tell whose it is, and an owner reference that takes it away."""

from trainyard_api.names import API_VERSION, FIELD_MANAGER, KIND, Label, Stage
from trainyard_operator.resources.facts import Object, Owner


def child_labels(owner: Owner, attempt: int | None = None, stage: Stage | None = None) -> dict[str, str]:
    """Labels of a child; what serves several attempts or stages leaves them out."""
    labels: dict[str, str] = {
        Label.MANAGED_BY.value: FIELD_MANAGER,
        Label.RUN.value: owner.name,
        Label.RUN_UID.value: owner.uid,
    }
    if stage is not None:
        labels[Label.STAGE.value] = stage.lower()
    if attempt is not None:
        labels[Label.ATTEMPT.value] = str(attempt)
    return labels


def child_metadata(owner: Owner, name: str, labels: dict[str, str]) -> Object:
    """Metadata of a child.

    The garbage collector deletes it with its owner, also while the operator is away; it blocks nothing,
    and no finalizer does.
    """
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }
