"""Labels and annotations by which Kueue admits pods and Jobs; nothing that Kueue itself writes."""

from trainyard_api.names import KueueName
from trainyard_api.spec import TrainingRun


def queue_labels(run: TrainingRun) -> dict[str, str]:
    """The queue, and the WorkloadPriorityClass that the run itself is labelled with; empty without a queue.

    `scheduling.priorityClassName` is a PriorityClass of pods, which Kueue uses where this label is missing.
    """
    queue = run.spec.scheduling.queue_name
    if not queue:
        return {}
    labels = {KueueName.QUEUE.value: queue}
    priority = run.metadata.labels.get(KueueName.PRIORITY_CLASS)
    if priority is not None:
        labels[KueueName.PRIORITY_CLASS.value] = priority
    return labels


def pod_group_metadata(run: TrainingRun, group: str, num_pods: int) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations that let Kueue admit the pods of a gang as a whole.

    A single pod needs no group. Nobody replaces a failed pod of a group, as its attempt is over; Kueue frees
    the quota and the pods' finalizers only when it is told so.
    """
    labels = queue_labels(run)
    if not labels or num_pods == 1:
        return labels, {}
    return (
        {**labels, KueueName.POD_GROUP.value: group},
        {KueueName.POD_GROUP_TOTAL.value: str(num_pods), KueueName.RETRIABLE_IN_GROUP.value: "false"},
    )
