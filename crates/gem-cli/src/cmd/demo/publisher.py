"""The demo's Python publisher: events from a file into GEM, acknowledgements to standard output."""

import json
import sys
import time
from collections import deque

import gem


def now_us() -> int:
    return time.time_ns() // 1000


def main(url: str, topic: str, path: str, rate: float) -> None:
    client = gem.Client(url)
    pending = deque()

    def report(wait: bool) -> None:
        while pending and (wait or pending[0][2].done()):
            event, sent, receipt = pending.popleft()
            placed = receipt.result(180)
            line = {
                "id": event["id"], "partition": placed.partition, "offset": placed.offset,
                "duplicate": placed.duplicate, "sent_us": sent, "acked_us": now_us(),
            }  # fmt: skip
            sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    started = time.monotonic()
    with open(path, encoding="utf-8") as lines:
        for count, line in enumerate(lines):
            event = json.loads(line)
            while (ahead := started + count / rate - time.monotonic()) > 0:
                report(False)
                time.sleep(min(ahead, 0.005))
            sent = now_us()
            receipt = client.publish(
                topic, event["payload"], key=event["key"], headers=event["headers"], id=event["id"]
            )
            pending.append((event, sent, receipt))
            del event["payload"]
            if count % 16 == 0:
                report(False)
    report(True)
    client.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
