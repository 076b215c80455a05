"""``python -m sam2fast.environment``: the same as JSON, where the command itself cannot run."""

import json

from sam2fast.environment import describe

if __name__ == "__main__":
    print(json.dumps(describe(), indent=2))
