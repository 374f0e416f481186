"""A stand-in for the hub on this machine: as much of it as its unmodified client asks for to push and load a model.

It keeps its repositories in a folder, so that another server can take over where one has died.  `plan` says what to do
wrong: `{"commit": ["503", "die"]}` answers the first commit with 503 and dies at the second.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "hf_" + "a" * 34


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(ThreadingHTTPServer):
    """Repositories `{id: {name: sha256 of its content}}`, and what was asked: `(step, detail)`."""

    def __init__(self, folder: Path, plan: dict[str, list[str]] | None = None, port: int = 0) -> None:
        self.folder, self.plan, self.log = folder, plan or {}, []
        self.dead = False
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def repos(self) -> dict:
        path = self.folder / "repos.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def save(self, repos: dict) -> None:
        (self.folder / "repos.json").write_text(json.dumps(repos))

    def files(self, repo: str) -> dict[str, bytes]:
        return {name: self.blob(digest) for name, digest in self.repos[repo]["files"].items()}

    def blob(self, digest: str) -> bytes:
        return (self.folder / "blobs" / digest).read_bytes()

    def store(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs" / digest).write_bytes(content)
        return digest

    def steps(self, kind: str) -> list:
        return [detail for step, detail in self.log if step == kind]

    def handle_error(self, request, client_address) -> None:
        """Clients that have gone are no news."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def reply(self, status: int, values=None, body: bytes | None = None, headers: dict | None = None) -> None:
        body = json.dumps(values if values is not None else {}).encode() if body is None else body
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self) -> None:
        if self.server.dead:
            self.close_connection = True
            return self.connection.close()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        asked = f"{self.command} {path}"
        step, found = next(((step, m) for pattern, step in ROUTES if (m := re.fullmatch(pattern, asked))), (None, None))
        if step is None:
            return self.reply(404, {"error": f"no such route: {asked}"})
        name = step.__name__
        planned = self.server.plan.get(name) or ["ok"]
        what = planned.pop(0)
        if what.startswith("wait"):
            time.sleep(float(what[4:]))
        if what == "die":
            self.server.log.append((name, "die"))
            self.close_connection = True
            self.server.dead = True  # nobody is answered any more
            return self.connection.close()
        if what.isdigit():
            self.server.log.append((name, int(what)))
            return self.reply(int(what), {"error": f"planned {what}"})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.command != "GET" and self.command != "HEAD" and name not in ("put", "validate") and token != TOKEN:
            return self.reply(401, {"error": "Invalid username or password."})
        with self.server.lock:
            step(self, body, *found.groups())

    do_GET = do_POST = do_PUT = do_HEAD = handle_request

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo, repos = f"{asked['organization']}/{asked['name']}", self.server.repos
        self.server.log.append(("create", repo))
        if asked["organization"] == "other":
            return self.reply(403, {"error": "You don't have the rights to create a model under the namespace 'other'"})
        known = repo in repos
        repos.setdefault(repo, {"files": {}, "private": asked.get("visibility") == "private", "commits": []})
        self.server.save(repos)
        self.reply(409 if known else 200, {"url": f"{self.server.url}/{repo}"})

    def validate(self, body: bytes) -> None:
        import yaml

        head = json.loads(body)["content"].split("---\n")
        values = yaml.safe_load(head[1]) if len(head) > 2 else {}
        for model in values.get("model-index", []):  # what the hub's own check asks of it
            for result in model["results"]:
                if not (result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]):
                    return self.reply(400, {"errors": [{"message": "model-index: incomplete"}], "warnings": []})
        self.server.log.append(("validate", values))
        self.reply(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, repo: str) -> None:
        held, files = self.server.repos[repo]["files"], []
        for item in json.loads(body)["files"]:
            lfs = item["path"].endswith((".safetensors", ".csv"))
            entry = {"path": item["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if digest := held.get(item["path"]):
                entry["oid"] = digest if lfs else git_oid(self.server.blob(digest))
            files.append(entry)
        self.reply(200, {"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        objects = []
        for item in json.loads(body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if not (self.server.folder / "blobs" / item["oid"]).exists():
                entry["actions"] = {"upload": {"href": f"{self.server.url}/put/{item['oid']}"}}
            objects.append(entry)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        assert self.server.store(body) == oid
        self.server.log.append(("put", oid))
        self.reply(200)

    def commit(self, body: bytes, repo: str) -> None:
        repos, sent = self.server.repos, {}
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                sent[value["path"]] = self.server.store(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                assert (self.server.folder / "blobs" / value["oid"]).exists()
                sent[value["path"]] = value["oid"]
        repos[repo]["files"].update(sent)
        repos[repo]["commits"].append(lines[0]["value"]["summary"])
        self.server.save(repos)
        self.server.log.append(("commit", sorted(sent)))
        self.reply(200, {"commitUrl": f"{self.server.url}/{repo}/commit/1", "commitOid": self.sha(repo)})

    def sha(self, repo: str) -> str:
        return hashlib.sha1(json.dumps(self.server.repos[repo]["files"], sort_keys=True).encode()).hexdigest()

    def info(self, body: bytes, repo: str) -> None:
        if repo not in self.server.repos:
            return self.reply(404, {"error": "Repository not found"}, headers={"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": name} for name in self.server.repos[repo]["files"]]
        self.reply(200, {"id": repo, "modelId": repo, "sha": self.sha(repo), "siblings": siblings, "tags": []})

    def tree(self, body: bytes, repo: str) -> None:
        files = self.server.files(repo)
        self.reply(
            200, [{"type": "file", "path": n, "size": len(c), "oid": git_oid(c)} for n, c in sorted(files.items())]
        )

    def resolve(self, body: bytes, repo: str, name: str) -> None:
        found = self.server.repos.get(repo, {"files": {}})["files"]
        if name not in found:
            code = "EntryNotFound" if repo in self.server.repos else "RepoNotFound"
            return self.reply(404, {"error": code}, headers={"X-Error-Code": code})
        headers = {"ETag": f'"{found[name]}"', "X-Repo-Commit": self.sha(repo)}
        self.reply(200, body=self.server.blob(found[name]), headers=headers)


_ID = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{_ID}/preupload/\w+", Handler.preupload),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /put/(\w+)", Handler.put),
    (rf"POST /api/models/{_ID}/commit/\w+", Handler.commit),
    (rf"GET /api/models/{_ID}/tree/\w+", Handler.tree),
    (rf"GET /api/models/{_ID}(?:/revision/\w+)?", Handler.info),
    (rf"(?:HEAD|GET) /{_ID}/resolve/\w+/(.+)", Handler.resolve),
]


def client_environment(hub_url: str, home: Path, token: str | None = TOKEN) -> dict[str, str]:
    """The environment of a process whose hub is this one."""
    root = str(Path(__file__).parents[2])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own = {"HF_ENDPOINT": hub_url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "PYTHONPATH": root}
    return kept | own | ({"HF_TOKEN": token} if token else {}) | {"HF_HUB_DISABLE_TELEMETRY": "1"}


if __name__ == "__main__":  # a hub by hand: python tests/hub/server.py FOLDER PORT
    print(Hub(Path(sys.argv[1]), port=int(sys.argv[2])).url, TOKEN, flush=True)
    threading.Event().wait()
