"""A hub on this machine, as much of it as uploading and downloading ask for.

Large files go to a store that takes everything: what hf_xet sends there is hashed by hf_xet alone.

Source: huggingface_hub, hf_api.py and _commit_api.py, and hf_xet, which are what speaks to it.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_oid(content):
    """The name of a small file in git: what the hub compares to skip what it has."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Large:
    """A file of which the hub itself keeps no more than this."""

    sha256: str
    size: int


class Hub:
    """Repositories in memory, and what was asked of them."""

    def __init__(self):
        self.repos = {}  # name -> {"private": bool, "branches": {branch: {path: bytes or Large}}}
        self.requests, self.tokens = [], set()
        self.strangers = set()  # tokens that came to where large files lie, which is another host
        self.messages = []  # of commits
        self.sent = []  # paths, as often as they came
        self.reached, self.hold = threading.Event(), None  # a commit is there, and waits for hold
        self.head = "main"  # the branch of the last commit
        self.refuse = {}  # (status, message) instead of the true answer, by a part of the path
        self.commits_left = None  # how many are taken before the line is cut; None for all
        self.spoil = {}  # what is kept instead, by path
        self.ranges = []  # of what was asked for in part
        self.cut_after = None  # bytes of a download before the line is cut

    def files(self, repo, branch="main"):
        return self.repos[repo]["branches"][branch]

    def put(self, repo, files, *, private=False):
        self.repos[repo] = {"private": private, "branches": {"main": dict(files)}}

    def asked(self, part):
        return [path for _, path in self.requests if part in path]


def _mode(file, files):
    """How a file is to be sent, and what the hub has of it."""
    there, large = files.get(file["path"]), file["path"].endswith(".safetensors")
    oid = there.sha256 if isinstance(there, Large) else there is not None and git_oid(there)
    mode = "lfs" if large else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid or None}


def _sibling(name, content):
    if isinstance(content, Large):
        lfs = {"sha256": content.sha256, "size": content.size, "pointerSize": 130}
        return {"rfilename": name, "size": content.size, "blobId": "0" * 40, "lfs": lfs}
    return {"rfilename": name, "size": len(content), "blobId": git_oid(content)}


def _leaf(name, content):
    return {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.answer("HEAD")

        def do_GET(self):
            self.answer("GET")

        def do_POST(self):
            self.answer("POST")

        def do_PUT(self):
            self.answer("PUT")

        def answer(self, method):
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            hub.requests.append((method, path))
            where = hub.strangers if path.startswith("/cdn/") else hub.tokens
            where.add(self.headers.get("authorization"))
            for part, (status, message) in hub.refuse.items():
                if part in path:
                    return self.say(status, {"error": message})
            if path == "/":
                return self.say(200, {})
            if "/resolve/" in path:
                return self.resolve(method, path)
            if path.startswith("/cas/v1/") and "/chunks/" not in path and "grants" not in path:
                return self.say(200, {"was_inserted": True, "result": 1})
            if path == "/api/validate-yaml":
                return self.say(200, {"errors": [], "warnings": []})
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if path == "/api/models":
                return self.found(parse_qs(urlsplit(self.path).query))
            if path.startswith("/api/models/"):
                return self.model(path.split("/")[3:], body)
            return self.say(404, {})

        def model(self, parts, body):
            owner, name, what, *more = [*parts, ""] if len(parts) == 2 else parts
            if (repo := f"{owner}/{name}") not in hub.repos:
                return self.say(404, {"error": "Not found"}, {"X-Error-Code": "RepoNotFound"})
            branches, branch = hub.repos[repo]["branches"], "/".join(more)
            if what == "branch":
                branches.setdefault(branch, dict(branches["main"]))
                return self.say(200, {})
            branch = hub.head if branch == COMMIT else branch or "main"
            if branch not in branches:
                return self.say(404, {"error": "No"}, {"X-Error-Code": "RevisionNotFound"})
            files = branches[branch]
            if what == "xet-write-token":
                cas = f"http://{self.headers['host']}/cas"
                return self.say(200, {"casUrl": cas, "accessToken": "t", "exp": 4_000_000_000})
            if what == "preupload":
                wanted = json.loads(body)["files"]
                return self.say(200, {"files": [_mode(file, files) for file in wanted]})
            if what == "commit":
                hub.head = branch
                return self.commit(repo, files, body)
            if what == "tree":
                return self.say(200, [_leaf(name, content) for name, content in files.items()])
            siblings = [_sibling(name, content) for name, content in files.items()]
            private = hub.repos[repo]["private"]
            return self.say(
                200, {"id": repo, "private": private, "sha": COMMIT, "siblings": siblings}
            )

        def found(self, wish):
            words = wish.get("search", [""])[0].lower()
            return self.say(
                200,
                [
                    {
                        "id": name,
                        "downloads": 7,
                        "usedStorage": sum(map(len, repo["branches"]["main"].values())),
                        "config": json.loads(repo["branches"]["main"].get("config.json", b"{}")),
                    }
                    for name, repo in hub.repos.items()
                    if words in name.lower()
                ],
            )

        def create(self, wish):
            repo = f"{wish['organization']}/{wish['name']}"
            url = f"http://{self.headers['host']}/{repo}"
            if repo in hub.repos:
                return self.say(409, {"error": "You already created this model repo", "url": url})
            private = wish.get("visibility") == "private" or bool(wish.get("private"))
            hub.put(repo, {".gitattributes": b""}, private=private)
            return self.say(200, {"url": url, "name": repo})

        def commit(self, repo, files, body):
            hub.reached.set()
            if hub.hold is not None:
                hub.hold.wait()
            if hub.commits_left == 0:
                self.close_connection = True
                return
            if hub.commits_left:
                hub.commits_left -= 1
            for entry in map(json.loads, body.splitlines()):
                value = entry["value"]
                if entry["key"] == "header":
                    hub.messages.append(value["summary"])
                elif entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = Large(value["oid"], value["size"])
                hub.sent += [value["path"]] if "path" in value else []
                if value.get("path") in hub.spoil:
                    files[value["path"]] = hub.spoil[value["path"]]
            url = f"http://{self.headers['host']}/{repo}/commit/{COMMIT}"
            self.say(200, {"commitUrl": url, "commitOid": COMMIT})

        def resolve(self, method, path):
            repo, _, rest = path.removeprefix("/cdn")[1:].partition("/resolve/")
            content = hub.files(repo).get(rest.partition("/")[2])
            if content is None:
                return self.say(404, {"error": "No"}, {"X-Error-Code": "EntryNotFound"})
            # Large files are named by their SHA-256, and lie elsewhere.
            large = path.endswith(".safetensors")
            name = f'"{hashlib.sha256(content).hexdigest() if large else git_oid(content)}"'
            if large and not path.startswith("/cdn/"):
                self.send_response(302)
                self.send_header(
                    "Location", f"http://localhost:{self.server.server_port}/cdn{path}"
                )
                self.send_header("X-Linked-Etag", name)
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            start, _, last = (self.headers.get("range") or "bytes=0-")[6:].partition("-")
            part = content[int(start) : int(last) + 1 if last else None]
            hub.ranges += filter(None, [self.headers.get("range")])
            self.send_response(206 if len(part) < len(content) else 200)
            self.send_header("Content-Length", str(len(part)))
            if len(part) < len(content):
                end = int(start) + len(part) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            self.send_header("ETag", name)
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if method == "HEAD":
                return None
            if hub.cut_after is not None and len(part) > hub.cut_after:
                self.wfile.write(part[: hub.cut_after])
                self.close_connection = True
                return None
            with suppress(ConnectionError):
                self.wfile.write(part)
            return None

        def say(self, status, answer, headers=()):
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Content-Type", "application/json")
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                # Who asked may have been killed meanwhile.
                with suppress(ConnectionError):
                    self.wfile.write(text)

    return Handler


@contextmanager
def serve():
    """A hub while the block runs, and its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
