#!/usr/bin/env python3
"""espeak-ng as a model service: POST {"text": "...", "voice"?: "en"} answers audio/wav.

Standard library only. A request is a process of its own, so there is nothing to lock: how many run
at once is the model's maxConcurrency.
"""
import argparse
import json
import pathlib
import re
import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BODY = 64 * 1024  # bytes
MAX_TEXT = 5000  # characters: about six minutes of speech
TIMEOUT = 60  # seconds for one request
VOICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+-]{0,31}")  # a name such as en-gb+f3, never a path or an option


class Refused(Exception):
    """The request cannot be served: status and message for the caller."""


def speak(text, voice):
    with tempfile.TemporaryDirectory() as folder:
        # Into a file: what espeak-ng writes to a pipe says a wrong length in its header.
        wav = pathlib.Path(folder, "speech.wav")
        # The text goes in by stdin, so that it can never be read as an option.
        command = ["espeak-ng", "--stdin", "-b", "1", "-v", voice, "-w", str(wav)]
        try:
            done = subprocess.run(command, input=text.encode(errors="replace"), capture_output=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Refused(504, f"not spoken within {TIMEOUT} s") from None
        if done.returncode != 0:
            raise Refused(400, done.stderr.decode(errors="replace").strip() or "espeak-ng failed")
        if not wav.exists():
            raise Refused(400, "there is nothing to say in this text")
        return wav.read_bytes()


def checked(body):
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    text, voice = (request.get("text"), request.get("voice", "en")) if isinstance(request, dict) else (None, "en")
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, 'text is missing: send {"text": "..."}')
    if len(text) > MAX_TEXT:
        raise Refused(413, f"text is longer than {MAX_TEXT} characters")
    if not isinstance(voice, str) or not VOICE.fullmatch(voice):
        raise Refused(400, "voice must be a name such as en or en-gb+f3")
    return text, voice


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY:
                raise Refused(413, f"a body of at most {MAX_BODY} bytes with its Content-Length is needed")
            self.answer(200, "audio/wav", speak(*checked(self.rfile.read(int(length)))))
        except Refused as refused:
            status, message = refused.args
            self.answer(status, "application/json", json.dumps({"error": message}).encode())

    def answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=9002)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler).serve_forever()
