"""Collects rationales from a service until it is done or killed; the tests kill it."""

import sys
from pathlib import Path

from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.rationale_exchanges import ExchangeStore
from rewarddance.rewards.chat_endpoint import ChatEndpoint, EndpointSettings
from rewarddance.training.rationale_collection import collect_rationales
from rewarddance.training.served_rationales import TeacherSettings, served_teacher, teacher_name

if __name__ == "__main__":
    data, out, url = sys.argv[1:]
    settings = TeacherSettings()
    with ChatEndpoint(EndpointSettings(url, "teacher", concurrency=2)) as endpoint, ExchangeStore(Path(out)) as store:
        collect_rationales(
            served_teacher(endpoint, settings),
            teacher_name(endpoint.settings, settings),
            list(ComparisonSet.open(data)),
            store,
        )
