"""tuspyserver as a peer: its own router in FastAPI under uvicorn, as its documentation shows.

Run as `python -m tests.benchmarks.tuspyserver_app PORT DIRECTORY default|storage`.
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from tuspyserver import create_tus_router
from tuspyserver.storage.local import LocalFileStorage


def main() -> None:
    """Serve until SIGTERM."""
    port, directory, mode = sys.argv[1:]
    storage = LocalFileStorage(directory) if mode == "storage" else None
    app = FastAPI()
    app.include_router(create_tus_router(prefix="files", files_dir=directory, storage=storage))
    uvicorn.run(app, host="127.0.0.1", port=int(port), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
