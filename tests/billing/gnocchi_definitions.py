# SPDX-License-Identifier: Apache-2.0
"""What Ceilometer reads from a gnocchi_resources.yaml; runs in Ceilometer's environment.

``python gnocchi_definitions.py FILE``, with the metadata of a sample as JSON on stdin, writes JSON: the archive policy of each
metric, and the attributes of the sample's instance.
"""

from __future__ import annotations

import json
import sys

from ceilometer import service
from ceilometer.publisher.gnocchi import GnocchiPublisher


class Sample:
    def as_dict(self):
        return {"resource_metadata": json.load(sys.stdin)}


conf = service.prepare_service(argv=["gnocchi"], config_files=[])
definitions, _ = GnocchiPublisher._load_definitions(conf, None, sys.argv[1])
[instance] = [one for one in definitions if one.cfg["resource_type"] == "instance"]
policies = {name: extra["archive_policy_name"] for name, extra in instance.metrics.items()}
json.dump({"policies": policies, "attributes": instance.sample_attributes(Sample())}, sys.stdout)
