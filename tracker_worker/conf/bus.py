# SPDX-License-Identifier: Apache-2.0
"""[bus]: the worker's own queues. The options of oslo.messaging say how to reach the broker."""

from oslo_config import cfg

GROUP = "bus"

OPTIONS = [
    cfg.StrOpt(
        "queue_type",
        default="quorum",
        choices=[
            ("quorum", "replicated over the cluster; survives the loss of a broker node"),
            ("classic", "on one broker node; answers a single request about a quarter sooner"),
        ],
        help="The type of the worker's queues. Choose classic if the broker is a single node. The type of an existing queue "
        "cannot be changed: after a change of this option, drain and delete the old queues.",
    ),
    cfg.IntOpt(
        "prefetch",
        default=256,
        min=1,
        max=65535,
        help="The largest number of messages that the worker holds, divided among its hosts (at least one each). Raise it if "
        "the worker serves hundreds of hosts. A larger number makes larger batches under load, and more messages are "
        "redelivered after a crash.",
    ),
    cfg.IntOpt(
        "max_unsettled_bytes",
        default=67108864,
        min=1048576,
        help="The largest number of bytes of messages that the worker holds; over it, the worker reads no further message "
        "until it has finished half of them. A single message may be larger. Lower it if memory is scarce. With a smaller "
        "number, batches of large messages are smaller. A message takes several times its size while it is processed.",
    ),
    cfg.StrOpt(
        "dead_letter_queue",
        default="tracker.dead",
        help="The queue for casts that cannot be processed. Each message has the reason in its headers. Monitor its length.",
    ),
    cfg.IntOpt(
        "max_body_bytes",
        default=1048576,
        min=1024,
        help="The largest message body in bytes, compressed or decompressed; larger messages are refused without being built. "
        "Raise it if valid requests are larger. The worker may hold a body in memory several times while it processes the "
        "message.",
    ),
    cfg.ListOpt(
        "reply_queue_prefixes",
        default=["reply_"],
        help="How the names of the clients' reply queues begin. A call that wants its reply in another queue, or in one of the "
        "worker's own queues, is not done and goes to the dead-letter queue: otherwise anyone who may send requests could have "
        "the worker write into any queue. Add a prefix for clients that name their reply queues differently from "
        "oslo.messaging.",
    ),
    cfg.IntOpt(
        "max_answer_bytes",
        default=4194304,
        min=65536,
        help="The largest reply in bytes, as it goes out; instead of a larger one the caller gets AnswerTooLarge. Raise it if "
        "hosts have more than about 8000 claims at a time, and keep it below the broker's max_message_size. The worker needs "
        "several times as much memory while it makes a reply.",
    ),
    cfg.IntOpt(
        "max_field_bytes",
        default=65536,
        min=2048,
        max=1048576,
        mutable=True,
        help="The largest field of an instance, as UTF-8 JSON, in bytes; a request with a larger one is refused. Raise it if "
        "valid instances have larger metadata. A notification can have four times as many bytes and 40 KB more, which the "
        "broker's max_message_size has to allow.",
    ),
]
