# SPDX-License-Identifier: Apache-2.0
"""Which topics are published in which dialect."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import cfg

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tests.support.rows import every_type
from tracker_worker.bus.settings import read_settings
from tracker_worker.conf import notifications, register_opts
from tracker_worker.errors import ConfigurationError
from tracker_worker.notifications.dialects.table import CLOUDEVENTS, COMPUTE, DIALECTS, PLAIN, read_topics
from tracker_worker.notifications.notification import PRIORITIES
from tracker_worker.wire.message import decode_message


def configured(path: Path, options: str) -> cfg.ConfigOpts:
    file = path / "tracker-worker.conf"
    file.write_text(f"[DEFAULT]\ntransport_url = rabbit://a:b@c/\n[notifications]\n{options}\n", encoding="utf-8")
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[str(file)])
    return conf


def test_every_option_that_names_topics_has_a_dialect() -> None:
    assert tuple(DIALECTS) == notifications.TOPICS


def test_by_default_there_is_one_topic_in_the_trackers_own_words(tmp_path: Path) -> None:
    assert read_topics(configured(tmp_path, "")) == {"notifications": PLAIN}


def test_each_option_names_the_topics_of_a_dialect(tmp_path: Path) -> None:
    conf = configured(tmp_path, "topics = a, b\ncompute_topics = c\ncloudevents_topics = d, e")
    expected = {"a": PLAIN, "b": PLAIN, "c": COMPUTE, "d": CLOUDEVENTS, "e": CLOUDEVENTS}
    assert read_topics(conf) == expected
    assert read_settings(conf).notification_topics == expected


def test_nothing_is_published_by_the_driver_noop(tmp_path: Path) -> None:
    assert read_topics(configured(tmp_path, "driver = noop\ncompute_topics = c")) == {}


@pytest.mark.parametrize("driver", ["messaging", "noop"])
def test_a_topic_in_two_lists_is_refused(tmp_path: Path, driver: str) -> None:
    conf = configured(tmp_path, f"driver = {driver}\ncompute_topics = a, c\ncloudevents_topics = c")
    with pytest.raises(ConfigurationError, match="compute_topics and cloudevents_topics both name c"):
        read_topics(conf)
    with pytest.raises(ConfigurationError, match="both name c"):
        read_settings(conf)


def test_the_trackers_own_dialect_is_the_row_as_it_encodes_itself() -> None:
    for row in every_type().values():
        [said] = [decode_message(body) for body in PLAIN.bodies(row)]
        own = decode_message(row.encode())
        assert said.pop("_unique_id") != own.pop("_unique_id")
        assert said == own
    assert PLAIN.queues == {priority: priority for priority in PRIORITIES}
