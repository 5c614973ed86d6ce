#!/usr/bin/env python3
"""RapidOCR as a model service: POST {"imageBase64": "..."} or {"imageUrl": "https://..."} answers
{"lines": [{"text", "score", "box"}]}, top to bottom; box is four [x, y] corners in pixels.

An imageUrl is only fetched from hosts named with --allow-host: a service that fetches whatever it is
told to can be made to read what only it can reach.
"""
import argparse
import base64
import http.client
import io
import json
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image
from rapidocr_onnxruntime import RapidOCR

MAX_IMAGE = 10 * 1024 * 1024  # bytes
MAX_BODY = MAX_IMAGE * 4 // 3 + 1024  # bytes: the image in base64
MAX_PIXELS = 40_000_000
FETCH_TIMEOUT = 10  # seconds

model = RapidOCR()
model_lock = threading.Lock()  # one image at a time: a second one would only share the same cores
allowed_hosts = set()


class Refused(Exception):
    """The request cannot be served: status and message for the caller."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A host that is allowed must not send us to one that is not."""

    def redirect_request(self, *_):
        return None


def fetch(url):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname not in allowed_hosts:
        raise Refused(403, "imageUrl is only fetched from hosts that the server was started with (--allow-host)")
    try:
        with urllib.request.build_opener(NoRedirects).open(url, timeout=FETCH_TIMEOUT) as answer:
            return answer.read(MAX_IMAGE + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Refused(502, f"imageUrl cannot be fetched: {error}") from None


def image_of(body):
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    encoded, url = (request.get("imageBase64"), request.get("imageUrl")) if isinstance(request, dict) else (None, None)
    if isinstance(encoded, str) == isinstance(url, str):
        raise Refused(400, "one of imageBase64 and imageUrl is needed")
    try:
        data = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else fetch(url)
    except ValueError:
        raise Refused(400, "imageBase64 is not base64, or imageUrl not a URL") from None
    if len(data) > MAX_IMAGE:
        raise Refused(413, f"the image is larger than {MAX_IMAGE} bytes")
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise Refused(413, f"the image has more than {MAX_PIXELS} pixels")
        image = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Refused(400, "this is not an image that can be read") from None
    page = Image.new("RGB", image.size, "white")  # what is transparent is paper
    page.paste(image, mask=image)
    return page


def read(image):
    with model_lock:
        found, _ = model(image)
    lines = [{"text": text, "score": round(float(score), 3), "box": box} for box, text, score in found or []]
    return json.dumps({"lines": lines}, ensure_ascii=False).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY:
                raise Refused(413, f"a body of at most {MAX_BODY} bytes with its Content-Length is needed")
            self.answer(200, read(image_of(self.rfile.read(int(length)))))
        except Refused as refused:
            status, message = refused.args
            self.answer(status, json.dumps({"error": message}).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=9003)
    parser.add_argument("--allow-host", action="append", default=[], metavar="HOST", help="may be repeated")
    args = parser.parse_args()
    allowed_hosts.update(args.allow_host)
    ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
