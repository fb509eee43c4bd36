"""A real HTTP server on this machine, which serves files well or badly."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `files` (name -> bytes), each as `behaviour` says; what was asked for is in `requests`."""

    def __init__(self):
        self.files = {}
        self.behaviour = {}
        """Name -> "stop" after half of what is left, "no ranges", "loop", "page", "endless", or a status;
        "wait": answers when a second one asks, or after ten seconds."""
        self.requests = []
        """(name, value of the header Range)."""
        self.address = ""


@contextmanager
def serving():
    server = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            server.requests.append((name, self.headers["Range"]))
            if server.behaviour.get(name) == "wait":
                end = time.monotonic() + 10
                while len(server.requests) < 2 and time.monotonic() < end:
                    time.sleep(0.05)
            answer(self, server.files.get(name), server.behaviour.get(name))

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def answer(handler, content, behaviour):
    if behaviour == "loop":
        handler.send_response(302)
        handler.send_header("Location", handler.path)
        handler.end_headers()
    elif behaviour == "page":
        page = b"<!DOCTYPE html><title>Log in to this network</title>"
        send(handler, 200, page, {"Content-Type": "text/html; charset=utf-8", "Content-Length": len(page)})
    elif behaviour == "endless":
        send(handler, 200, content * 50, {"Content-Type": "application/octet-stream"})
    elif content is None or isinstance(behaviour, int):
        handler.send_error(behaviour or 404)
    else:
        send_file(handler, content, behaviour)


def send_file(handler, content, behaviour):
    asked = handler.headers["Range"]
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and behaviour != "no ranges" else 0
    if start >= len(content):
        handler.send_error(416)
        return
    rest = content[start:]
    headers = {"Content-Type": "application/octet-stream", "Content-Length": len(rest)}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    send(handler, 206 if start else 200, rest[: len(rest) // 2] if behaviour == "stop" else rest, headers)


def send(handler, status, body, headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, str(value))
    handler.end_headers()
    handler.wfile.write(body)
