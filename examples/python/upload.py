"""Sends an archive with tuspy, and goes on where it was when it is run again.

Needs `pip install tuspy`. Usage: python upload.py ARCHIVE [IMAGE]; TUSBOAT_SERVER and TUSBOAT_TOKEN
by environment. Prints the upload's id, then waits for the server to be done with it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusclient.uploader import Uploader

# What a broken line costs at most; tuspy holds one chunk in memory.
CHUNK_BYTES = 16 * 2**20
RETRIES, RETRY_SECONDS = 60, 1
TIMEOUT_SECONDS = 60
GONE = (404, 410)
ENDED = ("done", "failed", "canceled", "expired")


def main() -> int:
    """Upload, wait, and say how it ended: 0 is done."""
    parser = argparse.ArgumentParser(description="Upload an archive with tuspy.")
    parser.add_argument("archive", type=Path)
    parser.add_argument("image", nargs="?", help="where the image shall go: HOST/NAME:TAG")
    wanted = parser.parse_args()
    # A secret does not belong on a command line.
    environment = os.environ  # noqa: TID251
    server = environment.get("TUSBOAT_SERVER", "http://127.0.0.1:8080").rstrip("/")
    token = environment.get("TUSBOAT_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        url = upload(wanted.archive, server, wanted.image, headers)
        identifier = urlsplit(url).path.rsplit("/", 1)[-1]
        sys.stdout.write(f"{identifier}\n")
        sys.stdout.flush()
        return wait(f"{url.removesuffix(f'/files/{identifier}')}/api/uploads/{identifier}", headers)
    except (OSError, TusCommunicationError) as error:
        # requests' exceptions are OSErrors. What the server answered says more than the exception.
        said = getattr(error, "response_content", None) or str(error).encode()
        sys.stderr.write(f"cannot upload {wanted.archive}: {said.decode(errors='replace')}\n")
        sys.stderr.write("the same command again goes on where it was\n")
        return 1


def upload(archive: Path, server: str, image: str | None, headers: dict[str, str]) -> str:
    """Send all that the server does not have yet; the upload's URL."""
    # Where the upload is, until it is complete. Another file or server begins another one.
    memory = archive.with_name(f"{archive.name}.upload")
    status = archive.stat()
    client = TusClient(f"{server}/files/", headers=headers)
    key = f"{server} {image} {status.st_size} {status.st_mtime_ns}"
    known, _, url = memory.read_text().partition("\n") if memory.exists() else ("", "", "")
    with archive.open("rb") as stream:
        uploader = begin(client, stream, image, archive.name, url if known == key else None)
        if not uploader.url:
            uploader.set_url(uploader.create_url())
            memory.write_text(f"{key}\n{uploader.url}")
        else:
            sys.stderr.write(f"going on at {uploader.offset} of {status.st_size} bytes\n")
        uploader.upload()
    memory.unlink()
    return str(uploader.url)


def begin(
    client: TusClient, stream: Any, image: str | None, name: str, url: str | None
) -> Uploader:
    """An uploader that stands where the server stands; anew if the server knows the URL no more."""
    metadata = {"filename": name, **({"image": image} if image else {})}
    options = {"metadata": metadata, "retries": RETRIES, "retry_delay": RETRY_SECONDS}
    try:
        return client.uploader(file_stream=stream, url=url, chunk_size=CHUNK_BYTES, **options)
    except TusCommunicationError as error:
        if error.status_code not in GONE:
            raise
        return client.uploader(file_stream=stream, chunk_size=CHUNK_BYTES, **options)


def wait(url: str, headers: dict[str, str]) -> int:
    """Poll the status until the upload has ended, and print what came of it."""
    while True:
        answer = requests.get(url, headers=headers, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        document = answer.json()
        if document["status"] in ENDED:
            break
        time.sleep(1)
    sys.stdout.write(f"{document['status']}\n")
    for result in document["results"]:
        sys.stdout.write(f"{result['image']} {result['digest']}\n")
    if document["error"]:
        sys.stderr.write(f"{document['error']['message']}\n{document['error']['hint']}\n")
    return 0 if document["status"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main())
