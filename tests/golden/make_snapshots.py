"""Writes the recorded graph: keys, groups, dependencies, partitions, checks, jobs and sensors."""

import json
from pathlib import Path
from typing import Any

GRAPH = Path(__file__).with_name("graph.json")


def describe_graph() -> dict[str, Any]:
    """The code location as plain data."""
    from orchestration.definitions import defs

    graph = defs.resolve_asset_graph()
    return {
        "assets": {
            node.key.to_user_string(): {
                "group": node.group_name,
                "deps": sorted(key.to_user_string() for key in node.parent_keys),
                "partitions": type(node.partitions_def).__name__ if node.partitions_def else None,
                "code_version": node.code_version,
                "checks": sorted(key.name for key in node.check_keys),
            }
            for node in sorted(graph.asset_nodes, key=lambda node: node.key)
        },
        "jobs": sorted(job.name for job in defs.jobs or []),
        "sensors": sorted(sensor.name for sensor in defs.sensors or []),
        "schedules": sorted(schedule.name for schedule in defs.schedules or []),
    }


if __name__ == "__main__":
    GRAPH.write_text(json.dumps(describe_graph(), indent=1, sort_keys=True) + "\n")
