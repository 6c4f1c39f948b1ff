"""`python ray_cluster.py SPEC`: a Ray cluster of several nodes on this machine, led by lines on stdin, for the tests.

SPEC is JSON: one object of resources for each node. Prints the address; then takes `remove INDEX` and `end`.
"""

from __future__ import annotations

import json
import sys

import ray
from ray.cluster_utils import Cluster


def main(spec: str) -> None:
    cluster = Cluster()
    nodes = [
        cluster.add_node(**one, include_dashboard=False, object_store_memory=80 * 2**20) for one in json.loads(spec)
    ]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    ours, sys.stdout = sys.stdout, sys.stderr  # Ray prints what befalls its workers
    print(cluster.address, file=ours, flush=True)
    for line in sys.stdin:
        word, _, index = line.strip().partition(" ")
        if word == "remove":
            cluster.remove_node(nodes[int(index)], allow_graceful=False)
            print("removed", file=ours, flush=True)
        elif word == "end":
            break
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
