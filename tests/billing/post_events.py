# SPDX-License-Identifier: Apache-2.0
"""A consumer that posts events with OpenMeter's client; runs in the client's environment.

``python post_events.py ENDPOINT TOKEN FORM`` reads an event from each line of stdin. FORM is ``bytes`` (each line as it is),
``batch`` (all at once), ``model`` (each as an event of OpenMeter's own type) or ``page`` (as doc/user/billing-with.md has it).
"""

from __future__ import annotations

import json
import sys

from openmeter import Client
from openmeter.models import Event


def main(endpoint, token, form):
    lines = sys.stdin.buffer.read().splitlines()
    with Client(endpoint=endpoint, token=token) as client:
        match form:
            case "bytes":
                for line in lines:
                    client.events.ingest_event(line)
            case "batch":
                client.events.ingest_events([json.loads(line) for line in lines])
            case "model":
                for line in lines:
                    client.events.ingest_event(Event(json.loads(line)))
            case "page":
                for line in lines:
                    post(client, line)


def post(client, body):
    event = json.loads(body)
    if event["type"] == "tracker.usage.exists":
        event["time"] = event["data"]["audit_period_beginning"]
    if "subject" in event:
        client.events.ingest_event(Event(event))


if __name__ == "__main__":
    main(*sys.argv[1:])
