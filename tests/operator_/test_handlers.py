"""What kopf may do."""

import kopf

from trainyard_operator.handlers import watch_settings
from trainyard_operator.settings import Settings


def test_kopf_copies_and_stores_nothing_of_the_objects_that_it_watches():
    storage = watch_settings(Settings()).persistence.diffbase_storage
    body, patch = kopf.Body({"metadata": {"name": "run"}, "spec": {"steps": 1}}), kopf.Patch()
    assert storage.build(body=body) == {}
    storage.store(body=body, patch=patch, essence=storage.build(body=body))
    assert not patch
    assert storage.fetch(body=body) is None
