"""Turns the npm package of GitHub's webhook examples into NDJSON: one event a line."""

import json
import sys
from pathlib import Path


def main(package: str, output: str) -> None:
    lines = []
    for index in sorted(Path(package).glob("*/index.json")):
        for definition in json.loads(index.read_text(encoding="utf-8")):
            for example in definition["examples"]:
                event = {"event": definition["name"], "payload": example}
                lines.append(json.dumps(event, separators=(",", ":"), ensure_ascii=False))
    if not lines:
        sys.exit(f"webhooks: no examples found under {package}: is it the package @octokit/webhooks-examples?")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    partial = Path(output + ".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.rename(output)
    print(f"{len(lines)} events in {output}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
